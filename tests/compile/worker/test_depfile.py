"""Dependency files: what they name, and what has to be added to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ajit._compile.worker.depfile import keep_order, records_of
from ajit._compile.worker.records import ABSENT, READ, Record
from tests.compile.support import wait_until

SOURCE = "source.cpp"


class Compile:
    """The traces of a compile that is over: a source, a dependency file, an order of search."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "job"
        self.folder.mkdir()
        self.dirs = [root / "one", root / "two"]
        for directory in self.dirs:
            directory.mkdir()
        self.missing: list[Path] = []
        self.read: list[str] = []

    def header(self, name: str, text: str = "") -> Path:
        """Make a header that is read."""
        path = self.root / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        self.read.append(str(path).replace(" ", "\\ ").replace("$", "$$"))
        return path

    def run(self, source: str) -> None:
        """Begin when all headers are older than the source, and write what a compiler writes."""
        path = self.folder / SOURCE
        newest = max(path.stat().st_ctime_ns for path in self.root.rglob("*"))

        def begun() -> bool:
            path.write_text(source)
            return path.stat().st_mtime_ns > newest + 20_000_000

        wait_until(begun, "the clock of the file system")
        names = " \\\n  ".join((SOURCE, *self.read))
        (self.folder / "source.d").write_text(f"module.o: {names}\n")
        ignored = "".join(f'ignoring nonexistent directory "{path}"\n' for path in self.missing)
        listed = "".join(f" {path}\n" for path in self.dirs)
        keep_order(
            str(self.folder),
            f'clang\n{ignored}#include "..." search starts here:\n'
            f"#include <...> search starts here:\n{listed}End of search list.\n# 1",
        )

    def records(self, own: tuple[str, ...] = ()) -> list[Record]:
        """What it read and looked for in vain."""
        records = records_of(str(self.folder), SOURCE, own)
        assert not isinstance(records, str), records
        return records

    def paths(self, kind: int) -> list[str]:
        """The paths of one kind, below the root."""
        below = f"{self.root}{os.sep}"
        return [path.removeprefix(below) for k, path, _ in self.records() if k == kind]


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    """A compile with two include directories."""
    return Compile(tmp_path)


def test_each_file_is_read_under_the_name_that_it_has(compiled: Compile) -> None:
    """A makefile's rule has its own way to write blanks and dollars."""
    compiled.header("two/a b.h")
    compiled.header("two/c$d.h")
    compiled.run("")

    assert compiled.paths(READ) == ["job/source.cpp", "two/a b.h", "two/c$d.h"]


def test_a_header_was_looked_for_in_all_directories_before_its_own(compiled: Compile) -> None:
    """And one that does not exist comes before them all, until it does."""
    compiled.missing.append(compiled.root / "later")
    compiled.header("two/a.h")
    compiled.run("#include <a.h>")

    assert compiled.paths(ABSENT) == ["later", "one/a.h"]


def test_a_header_in_quotes_was_looked_for_beside_its_file(compiled: Compile) -> None:
    """Beside each file that has its name in quotes, and beside no other."""
    compiled.header("two/deep/a.h", '#include "b.h"')
    compiled.header("two/other/c.h", "#include <b.h>")
    compiled.header("two/b.h")
    compiled.run("#include <deep/a.h>\n#include <other/c.h>")

    assert "two/deep/b.h" in compiled.paths(ABSENT)
    assert "two/other/b.h" not in compiled.paths(ABSENT)


def test_a_computed_include_may_have_named_any_header(compiled: Compile) -> None:
    """The name stands in another file than the include."""
    compiled.header("two/deep/a.h", "#include NAME")
    compiled.header("two/b.h")
    compiled.run('#define NAME "b.h"\n#include <deep/a.h>')

    assert "two/deep/b.h" in compiled.paths(ABSENT)


def test_has_include_looks_up_to_the_first_that_is_there(compiled: Compile) -> None:
    """In quotes beside the file first; a comment between the lines makes no difference."""
    (compiled.dirs[1] / "there.h").write_text("")
    compiled.run('#if __has_include( \\\n "gone.h") || __has_include(<there.h>)')

    assert compiled.paths(ABSENT) == ["job/gone.h", "one/gone.h", "two/gone.h", "one/there.h"]


def test_to_ask_whether_one_may_ask_looks_for_nothing(compiled: Compile) -> None:
    """Most headers do before they use it."""
    compiled.run("#ifdef __has_include\n#endif\n#if defined(__has_include)\n#endif")

    assert compiled.paths(ABSENT) == []


def test_files_of_the_toolchain_are_not_searched(compiled: Compile) -> None:
    """Its fingerprint stands for them, whatever macros they have."""
    compiled.header("two/a.h", "#define HAS(x) __has_include(x)")
    compiled.run("#include <a.h>")

    assert isinstance(records_of(str(compiled.folder), SOURCE, ()), str)
    assert compiled.records(own=(f"{compiled.dirs[1]}/",))


@pytest.mark.parametrize("change", ["written", "moved", "gone"])
def test_a_file_that_may_have_changed_is_never_sure(compiled: Compile, change: str) -> None:
    """It was written, or its directory put there, after the source was: it counts as changed."""
    header = compiled.header("two/deep/a.h")
    compiled.run("#include <deep/a.h>")
    sure = compiled.records()[-1][2]
    if change == "written":
        header.write_text("// changed")
    elif change == "moved":
        header.parent.rename(compiled.root / "two" / "old")
        (compiled.root / "two" / "old").rename(header.parent)
    else:
        header.unlink()
    unsure = compiled.records(own=(f"{compiled.dirs[1]}/",))[-1][2]

    assert sure[5] > sure[4] + 10_000_000
    assert unsure[5] == unsure[4]


def test_without_a_dependency_file_nothing_is_known(tmp_path: Path) -> None:
    """The compiler is another one than it says."""
    assert records_of(str(tmp_path), SOURCE, ()) == "the compiler wrote no dependency file"
