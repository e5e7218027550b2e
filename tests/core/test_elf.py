"""Compiled images that are whole, and every way in which one is not."""

from __future__ import annotations

import pytest

from ajit._core.elf import fault_of, kernel_symbols, ptx_fault_of
from tests.images import a_cubin


def test_a_whole_cubin_has_no_fault() -> None:
    """With the kernels that are asked for, and others."""
    image = a_cubin(["one", "two"], b"code" * 100)

    assert kernel_symbols(image) == {"one", "two"}
    assert fault_of("cubin", image, ["two"]) == ""
    assert fault_of("cubin", image, []) == ""


def test_a_cubin_cut_anywhere_has_a_fault() -> None:
    """Every shorter image, the empty one included, whichever kernels are asked for."""
    image = a_cubin(["one"], b"code" * 100)
    faults = [fault_of("cubin", image[:end], []) for end in range(len(image))]

    assert all("ELF image" in fault for fault in faults)


def test_a_section_that_ends_outside_is_named() -> None:
    """Also where the table of sections comes before them, as some linkers write it."""
    image = bytearray(a_cubin(["one"], b"code" * 100))
    table = int.from_bytes(image[40:48], "little")
    size_of_code = table + 64 + 32
    image[size_of_code : size_of_code + 8] = (1 << 20).to_bytes(8, "little")

    assert f"section 1 ends at byte {64 + (1 << 20)} of {len(image)}" in fault_of(
        "cubin", bytes(image), []
    )


def test_a_segment_that_ends_outside_is_named() -> None:
    """The part that a loader maps."""
    image = bytearray(a_cubin(["one"]))
    segment = bytes(8) + (0).to_bytes(8, "little") + bytes(16) + (1 << 20).to_bytes(8, "little")
    image[32:40] = len(image).to_bytes(8, "little")
    image[56:58] = (1).to_bytes(2, "little")
    image += segment + bytes(56 - len(segment))

    assert "segment 0 ends" in fault_of("cubin", bytes(image), ["one"])


@pytest.mark.parametrize("kind", ["cubin", "elf"])
def test_a_kernel_that_is_missing_is_named(kind: str) -> None:
    """A shared object has them in a table that it must export."""
    image = a_cubin(["one"])

    assert fault_of(kind, image, ["one", "other"]) == "it has no symbol other"  # type: ignore[arg-type]  # a parameter of the test


def test_a_shared_object_without_its_table_has_a_fault() -> None:
    """The CPU driver could not load it."""
    assert fault_of("elf", a_cubin(["one"]), ["one"]) == "it has no symbol ajit_cpu_module"


@pytest.mark.parametrize("size", [64, 100, 4096])
def test_noise_after_a_header_is_a_fault_and_no_crash(size: int) -> None:
    """Whatever the offsets say."""
    assert fault_of("cubin", b"\x7fELF\x02\x01" + b"\xff" * size, ["one"])


def test_ptx_has_text_and_every_name() -> None:
    """The rest of a PTX, the assembler judges."""
    assert ptx_fault_of(b".visible .entry one()", ["one"]) == ""
    assert ptx_fault_of(b" \n", []) == "there is no PTX in it"
    assert ptx_fault_of(b".visible .entry one()", ["one", "two"]) == "its PTX does not name two"
