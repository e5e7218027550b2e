"""Where compilers run: nothing that lies around there gets into a kernel."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._compile.pool import folders
from ajit._compile.pool.folders import private_folder
from ajit._compile.worker import place
from ajit._compile.worker.place import DEPTH, outward_path, top_of
from ajit.errors import CompileError, CompilerCrashed
from tests.compile.support import job

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.compile.support import Bench

KERNEL = '\nextern "C" __global__ void plain(float* x) { x[0] = VALUE; }\n'
CHECKED = f'\nstatic_assert(VALUE == 1, "planted");{KERNEL}'


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a header that lies in the temporary directories of all users."""
    if Path(place.__file__).is_relative_to("/tmp"):
        pytest.skip("ajit itself lies in /tmp: from its own headers a climb ends there")
    name = f"planted-{uuid.uuid4().hex}.h"
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    paths = [Path(folder, name) for folder in ("/tmp", "/var/tmp") if os.access(folder, os.W_OK)]
    for path in paths:
        path.write_text("#define VALUE 666\n")
    yield name
    for path in paths:
        path.unlink()


def includes(quotes: str, climbs: Iterable[int], folders: Iterable[str], name: str) -> str:
    """Directives that take a header from wherever it is found, and a value for where it is not."""
    paths = [f"{'../' * ups}{folder}{name}" for ups in climbs for folder in folders]
    named = [f"{quotes[0]}{path}{quotes[1]}" for path in paths]
    taken = "".join(f"#if __has_include({n})\n#include {n}\n#endif\n" for n in named)
    return f"{taken}#ifndef VALUE\n#define VALUE 1\n#endif\n"


@pytest.mark.parametrize("path", ["", "../", "../../../", "tmp/"])
def test_a_header_near_the_folder_of_a_compile_is_not_found(
    bench: Bench, compiler: dict[str, str], planted: str, path: str
) -> None:
    """The compile fails, as it does where none was planted."""
    with pytest.raises(CompileError, match=planted):
        bench.compile(job(f'#include "{path}{planted}"{KERNEL}', **compiler))


def test_no_climb_that_is_allowed_reaches_a_planted_header(
    bench: Bench, compiler: dict[str, str], planted: str
) -> None:
    """Nor is one seen by `__has_include`, which no list of files that were read would show."""
    climbs = [*range(8), DEPTH - 2, DEPTH - 1]
    source = includes('""', climbs, ("",), planted) + includes('""', [0], ("tmp/",), planted)

    bench.compile(job(source + CHECKED, **compiler))


@pytest.mark.parametrize("quotes", ['""', "<>"])
def test_a_header_above_virtual_headers_is_not_found(
    bench: Bench, compiler: dict[str, str], planted: str, quotes: str
) -> None:
    """Their folder is an include directory, so that also an include in brackets climbs from it."""
    text = includes(quotes, [*range(8), DEPTH - 1], ("",), planted)
    headers = (("lib/v.h", text),)

    bench.compile(job(f'#include "lib/v.h"\n{CHECKED}', headers=headers, **compiler))


@pytest.mark.parametrize("ups", range(1, 6))
def test_a_path_to_the_temporary_directory_is_refused(
    bench: Bench, compiler: dict[str, str], planted: str, ups: int
) -> None:
    """A compiler would reach it from its own include directories, such as ``/usr/include``."""
    source = includes("<>", [ups], ("tmp/",), planted) + CHECKED

    with pytest.raises(CompileError, match="may lead to /tmp, where other users can write"):
        bench.compile(job(source, **compiler))


@pytest.mark.parametrize("where", ["source", "header"])
def test_a_path_that_climbs_too_far_is_refused(
    bench: Bench, compiler: dict[str, str], planted: str, where: str
) -> None:
    """It could reach the temporary directory; the error says which text has it."""
    text = includes('""', range(DEPTH, DEPTH + 5), ("",), planted).replace('"../', '"..\\\n/')
    given = {"headers": (("v.h", text),), **compiler} if where == "header" else compiler
    source = ('#include "v.h"\n' if where == "header" else text) + KERNEL

    with pytest.raises(CompileError, match="lead out of its folder") as caught:
        bench.compile(job(source, name="mine.cu", **given))
    assert caught.value.log.startswith("v.h" if where == "header" else "mine.cu")


def test_many_short_climbs_are_no_long_one() -> None:
    """A source with fifty includes of its parent directory is compiled."""
    source = '#include "../a.h"\n' * 50

    assert outward_path(job(source)) is None
    assert outward_path(job(f'#include "{"../" * (DEPTH - 1)}a.h"')) is None
    assert "32 or more" in (outward_path(job(f'#include "{"../" * DEPTH}a.h"')) or "")


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ('#include "../tmp/a.h"', True),
        ("#if __has_include(<../../x/../var/tmp/b/a.h>)", True),
        ('asm(".incbin \\"../../dev/shm/a\\"");', True),
        ('#include "../common/tmp/a.h"', False),
        ('#include "tmp/a.h"', False),
        ('const char* said = "../tmp/a.h";', False),
    ],
)
def test_only_a_climb_to_a_place_of_all_users_is_refused(text: str, refused: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A folder of that name elsewhere is not one, nor is a text that names no file."""
    assert refused is (outward_path(job(text)) is not None)


def test_every_level_above_a_job_belongs_to_this_user_alone(tmp_path: Path) -> None:
    """Whatever the umask is; nothing of it is left afterwards."""
    before = os.umask(0)
    try:
        with private_folder(job(compiler="host")) as folder:
            levels = [Path(folder), *Path(folder).parents][: DEPTH + 1]
            modes = {level.lstat().st_mode & 0o7777 for level in levels}
            Path(folder, "result").mkdir()
            top = Path(top_of(folder))
    finally:
        os.umask(before)

    assert levels[-1] == top
    assert top.parent == Path(tempfile.gettempdir())
    assert modes == {0o700}
    assert not top.exists()


def test_a_file_system_that_keeps_no_modes_is_refused(
    own_bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error names the way out; nothing is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make = tempfile.mkdtemp

    def mkdtemp(**arguments: str) -> str:
        made = make(**arguments)
        Path(made).chmod(0o777)
        return made

    monkeypatch.setattr(folders.tempfile, "mkdtemp", mkdtemp)

    with pytest.raises(CompilerCrashed, match=r"cannot be made private.*set TMPDIR"):
        own_bench.compile(job(compiler="host", arch=os.uname().machine))
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_can_write_nowhere_leaves_the_root_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It goes to a directory that holds nothing that can be included."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, "_WRITABLE_ANYWHERE", ("/nonexistent",))
    monkeypatch.setenv("HOME", "/nonexistent")

    place.leave_root()

    assert Path.cwd().name == "fdinfo"


def test_a_directory_that_was_left_for_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No folder of a worker stays, and none can be made where it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, "_WRITABLE_ANYWHERE", (str(tmp_path),))

    place.leave_root()
    with pytest.raises(FileNotFoundError):
        Path("x.h").touch()
    assert list(tmp_path.iterdir()) == []
