"""Places: the directories that a reading list names instead of paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ajit._compile.recorder.places import places_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("program", "inside", "outside"),
    [
        ("/opt/cuda/bin/nvcc", "/opt/cuda/include/x.h", "/opt/x.h"),
        ("/venv/ziglang/zig", "/venv/ziglang/lib/x.h", "/venv/other/include/x.h"),
    ],
)
def test_a_toolchain_is_where_its_program_lies(program: str, inside: str, outside: str) -> None:
    """Above ``bin``, or beside the program: what lies beside a wheel is not the wheel's."""
    places = places_of((), (), (), program, "kernel.cu")

    assert places.name(inside)[0] == "tool"
    assert places.name(outside) == ("/", outside)


def test_a_result_with_the_real_path_of_a_linked_toolchain_is_found_again(tmp_path: Path) -> None:
    """A program behind a link lies in two places of one name: a trace of either holds."""
    program = tmp_path / "cuda-13.0" / "bin" / "nvcc"
    program.parent.mkdir(parents=True)
    program.touch()
    (tmp_path / "cuda").symlink_to("cuda-13.0")
    places = places_of((), (), (), str(tmp_path / "cuda" / "bin" / "nvcc"), "kernel.cu")
    traces = places.traces(f"{tmp_path}/cuda-13.0/x.h {tmp_path}/cuda/x.h".encode())

    assert len(traces) == 2
    assert all(places.is_same(place, digest) for place, digest in traces)
    assert not places.is_same("tool", "another")
