"""A kernel is never older than its headers: edited between two runs, they give another result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import ajit

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

KERNEL = 'extern "C" __global__ void k(float* x) { x[0] = V; }'


@pytest.fixture
def dirs(tmp_path: Path) -> list[Path]:
    """Two include directories, in search order."""
    made = [tmp_path / "first", tmp_path / "second"]
    for path in made:
        path.mkdir()
    return made


async def value(source: str, cache: Path, **options: object) -> float:
    """The kernel's result, in a new runtime on a cache that stays."""
    spec = ajit.Spec(f"{source}\n{KERNEL}", "k", params="float* x", **options)
    async with ajit.open_runtime(device="cpu", cache_dir=str(cache)) as rt:
        x = await rt.device.alloc(1, "float32")
        await (await rt.kernel(spec)).launch(1, 1, x)
        return (await rt.device.download(x))[0]


async def test_an_edit_behind_include_next_is_seen(dirs, tmp_path):
    """The header in the second directory decides, and its first one never changes."""
    (dirs[0] / "a.h").write_text("#include_next <a.h>\n")
    values = []
    for number in (1, 2):
        (dirs[1] / "a.h").write_text(f"#define V {number}.0f\n")
        values.append(await value("#include <a.h>", tmp_path / "cache", include_dirs=dirs))

    assert values == [1.0, 2.0]


async def test_headers_that_change_places_are_seen(dirs, tmp_path):
    """The same two texts, each in the other's directory."""
    (dirs[1] / "x.h").write_text('#include "y.h"\n')
    source, values = "#include <x.h>\n#include <y.h>", []
    for near, far in (("1", "2"), ("2", "1")):
        for folder, number in ((dirs[1], near), (dirs[0], far)):
            (folder / "y.h").write_text(f"#ifndef V\n#define V {number}.0f\n#endif\n")
        values.append(await value(source, tmp_path / "cache", include_dirs=dirs))

    assert values == [1.0, 2.0]


async def test_an_edit_of_what_an_option_names_is_seen(dirs, tmp_path):
    """``-I`` among the options is searched before include_dirs, and ``-imacros`` reads a file."""
    (dirs[0] / "y.h").write_text("#define V -1.0f\n")
    options = [f"-I{dirs[1]}", "-imacros", f"{dirs[1]}/m.h"]
    values = []
    for header, macro in ((1, 0), (2, 0), (2, 10)):
        (dirs[1] / "m.h").write_text(f"#define M {macro}.0f\n")
        (dirs[1] / "y.h").write_text(f"#define V ({header}.0f + M)\n")
        more = {"include_dirs": dirs[:1], "options": options}
        values.append(await value("#include <y.h>", tmp_path / "cache", **more))

    assert values == [1.0, 2.0, 12.0]
