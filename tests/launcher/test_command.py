"""``ajit cc`` as a command, and the programs that stand for a compiler."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ajit._cache.files.directory import open_cache_directory
from ajit._core import entry
from ajit._launcher import quick
from ajit._launcher.memos import IDLE_SECONDS, is_swept, sweep_memos
from tests.launcher.support import GXX, SECONDS, Build, needs_gxx

PROGRAMS = Path(sys.executable).parent

needs_programs = pytest.mark.skipif(
    not (PROGRAMS / "ajit-nvcc").exists(), reason="the programs are not installed: make setup"
)


def _ajit(build: Build, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ajit", *arguments],
        cwd=build.folder,
        env=build.env,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@needs_gxx
def test_statistics(build: Build) -> None:
    """Counts with reasons, as a table and as JSON; they can be forgotten."""
    build.write("a.c", "int f(void) { return 1; }\n")
    for options in (("-c", "-o", "a.o"), ("-c", "-o", "a.o"), ("-E", "-o", "a.i")):
        build.run("gcc", "a.c", *options)

    told = json.loads(_ajit(build, "cc", "--statistics", "--json").stdout)

    expected = {
        "schema": 1,
        "cache_dir": str(build.cache),
        "hits": 1,
        "compiled": 1,
        "failed": 0,
        "passed_through": {"not a compile": 1},
        "not_kept": {},
    }
    assert expected == told
    assert "passed through: not a compile" in _ajit(build, "cc", "--statistics").stdout
    assert _ajit(build, "cc", "--zero").returncode == 0
    assert json.loads(_ajit(build, "cc", "--statistics", "--json").stdout)["hits"] == 0


def test_usage(build: Build) -> None:
    """Without a compiler it says how it is called; a compiler that is not there is 127."""
    assert _ajit(build, "cc").returncode == 2

    missing = _ajit(build, "cc", "--", "no-such-compiler", "-c", "a.c")

    assert (missing.returncode, missing.stdout) == (127, "")
    assert "no-such-compiler" in missing.stderr


@needs_gxx
def test_without_dashes(build: Build) -> None:
    """``ajit cc gcc -c a.c`` is the same as with ``--``."""
    build.write("a.c", "int f(void) { return 1; }\n")

    assert _ajit(build, "cc", "gcc", "-c", "a.c", "-o", "a.o").returncode == 0
    assert build.counted() == {"compiled": 1}


@needs_gxx
@needs_programs
def test_a_program_stands_for_the_next_compiler_on_path(build: Build) -> None:
    """``ajit-c++`` runs the c++ of PATH; a link of that name is passed over."""
    build.write("a.cpp", "int f() { return 1; }\n")
    links = build.folder / "bin"
    links.mkdir()
    (links / "g++").symlink_to(PROGRAMS / "ajit-c++")
    build.env["PATH"] = f"{links}:{PROGRAMS}:{build.env['PATH']}"

    by_name = build.run_plain("ajit-c++", "-c", "a.cpp", "-o", "a.o")
    by_link = build.run_plain("g++", "-c", "a.cpp", "-o", "b.o")

    assert (by_name.code, by_link.code) == (0, 0)
    assert by_name.files["a.o"][1] == by_link.files["b.o"][1]
    assert set(build.counted()) == {"compiled"}


@needs_gxx
@needs_programs
def test_a_setting_names_the_compiler(build: Build) -> None:
    """AJIT_CC_NVCC and its like name the compiler, by path or name."""
    build.write("a.cpp", "int f() { return 1; }\n")
    compiler = build.write("bin/nvcc", '#!/bin/sh\necho "$@"\n')
    compiler.chmod(0o755)

    told = build.run_plain(str(PROGRAMS / "ajit-nvcc"), "--version", AJIT_CC_NVCC=str(compiler))
    missing = build.run_plain(str(PROGRAMS / "ajit-nvcc"), "--version", AJIT_CC_NVCC="/no/nvcc")

    assert (told.code, told.out) == (0, "--version\n")
    assert missing.code == 127


@needs_gxx
def test_a_launcher_in_a_launcher(build: Build) -> None:
    """What a launcher starts does not go through the cache once more."""
    build.write("a.c", "int f(void) { return 1; }\n")
    inner = f'#!/bin/sh\nexec {sys.executable} -m ajit cc -- {GXX} "$@"\n'
    wrapper = build.write("bin/g++", inner)
    wrapper.chmod(0o755)
    build.run(str(wrapper), "-c", "a.c", "-o", "a.o")

    assert sum(build.counted().values()) == 1


@needs_gxx
def test_it_can_be_switched_off(build: Build) -> None:
    """AJIT_CC_DISABLE=1 leaves the compiler alone, and makes no cache."""
    build.write("a.c", "int f(void) { return 1; }\n")

    result = build.run("gcc", "-c", "a.c", "-o", "a.o", AJIT_CC_DISABLE="1")

    assert (result.code, set(result.files)) == (0, {"a.o"})
    assert not build.cache.exists()


def test_a_hit_imports_next_to_nothing() -> None:
    """None of what makes the other way slow to start."""
    code = (
        "import sys, ajit._launcher.main; "
        "print(*{'msgspec', 'anyio', 'click', 'rich', 'threading', 'subprocess', 'pathlib', "
        "'json', 'ajit.settings', 'ajit.errors'} & set(sys.modules))"
    )
    # Without site: what a development install's .pth files import is not the launcher's.
    root = str(Path(__file__).parents[2])
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.split() == []


def test_the_quick_way_knows_the_format_of_entries() -> None:
    """It has the numbers of `ajit._core.entry` a second time, so as not to import it."""
    assert entry.FORMAT_VERSION == quick._ENTRY_FORMAT
    assert entry.MAGIC == quick._ENTRY_MAGIC
    assert entry._HEADER.format == quick._ENTRY.format


def test_a_memo_survives_its_bytes() -> None:
    """A memo is what was encoded; anything else is none."""
    memo = quick.Memo(
        "k" * 64, {"out": "a.o"}, b"/a\0/b\0", bytes(96), ["/"], {"/c": "d"}, {"as": "/bin/as"}
    )
    data = quick.encode(memo)
    again = quick.decode(data)

    assert [getattr(memo, name) for name in quick.Memo.__slots__] == [
        getattr(again, name) for name in quick.Memo.__slots__
    ]
    for length in range(len(data)):
        with pytest.raises((ValueError, struct.error)):
            quick.decode(data[:length])


def test_old_memos_are_removed(tmp_path: Path) -> None:
    """Those that were made more than a week ago; it is noted that this was done."""
    directory = open_cache_directory(tmp_path / "cache")
    folder = tmp_path / "cache" / "launcher" / "host-boot" / "aa"
    folder.mkdir(parents=True, mode=0o700)
    for path in (folder.parent.parent, folder.parent):
        path.chmod(0o700)
    for name, age in (("old", IDLE_SECONDS + 60), ("new", 60)):
        (folder / name).write_bytes(b"")
        times = folder.stat().st_mtime - age
        os.utime(folder / name, (times, times))

    assert not is_swept(directory)
    assert sweep_memos(directory) == 1
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert is_swept(directory)
