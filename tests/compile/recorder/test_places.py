"""Places: the directories that a reading list names instead of paths."""

from __future__ import annotations

import pytest

from ajit._compile.recorder.places import places_of


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
