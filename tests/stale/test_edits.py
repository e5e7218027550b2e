"""Headers that change around a compile: the cache gives what a fresh compile gives.

Nothing waits for a time to pass: what is edited while a compile is under way is edited by the
server's own events, or where its reads are about to be settled.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ajit._core import events
from ajit._resolve import compiling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import ajit
    from tests.stale.world import Server


def value(number: int) -> str:
    """A header, all of one length."""
    return f"#define V {number}\n"


@pytest.fixture
def before_settling(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something when a compiler has ended, before its reads are digested."""

    def arrange(act: Callable[[], object]) -> None:
        original = compiling.settle

        def settle(*given: object) -> object:
            monkeypatch.setattr(compiling, "settle", original)
            act()
            return original(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(compiling, "settle", settle)

    return arrange


def test_an_edited_header_is_seen_and_so_is_its_way_back(
    server: Server, user: Path, asking: Callable[..., ajit.Spec]
) -> None:
    """The kernel of an old text comes from the cache again."""
    header, spec = user / "a.h", asking('#include "a.h"')
    header.write_text(value(1))
    first = server.check(spec)
    header.write_text(value(2))
    second = server.check(spec)
    compiles = server.compiles()
    header.write_text(value(1))

    assert server.check(spec) == first
    assert first != second
    assert server.compiles() <= compiles + 1  # one more if the first was not sure of its header


def test_an_edit_that_keeps_size_and_time_is_seen(
    server: Server, user: Path, asking: Callable[..., ajit.Spec]
) -> None:
    """No program can set a file's ctime."""
    header, spec = user / "a.h", asking('#include "a.h"')
    seen = set()
    for number in (1, 2, 3):
        header.write_text(value(number))
        os.utime(header, ns=(10**18, 10**18))
        seen.add(server.check(spec))

    assert len(seen) == 3


def test_a_header_saved_before_the_compile_and_put_back_after_it(
    server: Server, user: Path, asking: Callable[..., ajit.Spec]
) -> None:
    """The kernel that was compiled meanwhile is that of the other text."""
    header, spec = user / "a.h", asking('#include "a.h"')
    header.write_text(value(1))
    with server.when(events.CompileStarted, lambda: header.write_text(value(2))):
        server.answer(spec)
    header.write_text(value(1))
    one = server.check(spec)
    header.write_text(value(2))

    assert server.check(spec) != one


@pytest.mark.parametrize("keeping", ["times", "no times", "the file"])
def test_a_header_saved_before_the_compile_and_put_back_before_it_is_digested(
    server: Server,
    user: Path,
    asking: Callable[..., ajit.Spec],
    before_settling: Callable[[Callable[[], object]], None],
    keeping: str,
) -> None:
    """The result is handed out and not published, whatever the file system shows afterwards."""
    header, aside, spec = user / "a.h", user / "aside", asking('#include "a.h"')
    header.write_text(value(1))
    state = header.stat()

    def save() -> None:
        if keeping == "the file":
            header.rename(aside)
        header.write_text(value(2))
        os.utime(header, ns=(state.st_atime_ns, state.st_mtime_ns))

    def put_back() -> None:
        if keeping == "the file":
            aside.rename(header)
            return
        header.write_text(value(1))
        if keeping == "times":
            os.utime(header, ns=(state.st_atime_ns, state.st_mtime_ns))

    unpublished = server.unpublished()
    before_settling(put_back)
    with server.when(events.CompileStarted, save):
        handed_out = server.answer(spec)

    assert server.unpublished() == unpublished + 1
    assert server.check(spec) != handed_out


def test_a_header_half_saved_at_the_request_is_complete_at_the_next(
    server: Server, user: Path, asking: Callable[..., ajit.Spec]
) -> None:
    """The error of the half is that of a fresh compile, and is not remembered for the whole."""
    header, spec = user / "a.h", asking('#include "a.h"')
    header.write_text("#define V (1 + \nint half(")
    failed = server.check(spec)
    header.write_text(value(1))
    whole = server.check(spec)

    assert failed.error
    assert whole.code


def test_a_header_half_saved_at_compile_time_leaves_no_failure(
    server: Server,
    user: Path,
    asking: Callable[..., ajit.Spec],
    before_settling: Callable[[Callable[[], object]], None],
) -> None:
    """It was whole at the request, half when the compiler read it, and whole at once again."""
    header, spec = user / "a.h", asking('#include "a.h"')
    header.write_text(value(1))
    before_settling(lambda: header.write_text(value(1)))
    with server.when(events.CompileStarted, lambda: header.write_text("#define V (")):
        failed = server.answer(spec)

    assert failed.error
    assert server.check(spec).code


@pytest.mark.parametrize("quotes", ['""', "<>"])
def test_a_missing_header_appears_and_goes(
    server: Server, user: Path, asking: Callable[..., ajit.Spec], quotes: str
) -> None:
    """Also in a directory that did not exist."""
    spec = asking(f"#include {quotes[0]}deep/er/a.h{quotes[1]}")
    missing = server.check(spec)
    (user / "deep" / "er").mkdir(parents=True)
    (user / "deep" / "er" / "a.h").write_text(value(1))
    there = server.check(spec)
    (user / "deep").rename(user / "gone")

    assert server.check(spec) == missing
    assert missing.error
    assert there.code


def test_a_directory_that_is_pointed_elsewhere_is_seen(
    server: Server, user: Path, asking: Callable[..., ajit.Spec]
) -> None:
    """As a release that is put in place by a link."""
    for number in (1, 2):
        (user / f"v{number}").mkdir()
        (user / f"v{number}" / "a.h").write_text(value(number))
    link, seen = user / "current", set()
    spec = asking("#include <a.h>", include_dirs=[link])
    for number in (1, 2):
        link.unlink(missing_ok=True)
        link.symlink_to(f"v{number}")
        seen.add(server.check(spec))

    assert len(seen) == 2


@pytest.mark.parametrize("text", ["#include <a.h>", '#include "a.h"'])
def test_a_folder_where_a_header_is_looked_for_becomes_one(
    server: Server, user: Path, asking: Callable[..., ajit.Spec], tmp_path: Path, text: str
) -> None:
    """A compiler passes over the folder, and takes the header."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.h").write_text(value(1))
    (user / "a.h").mkdir()
    spec = asking(text, include_dirs=[user, other])
    server.check(spec)
    (user / "a.h").rmdir()
    server.check(spec)
    (user / "a.h").mkdir()
    server.check(spec)
    (user / "a.h").rmdir()
    (user / "a.h").write_text(value(2))
    server.check(spec)


def test_a_directory_that_is_named_twice_and_pointed_elsewhere_is_seen(
    server: Server, user: Path, asking: Callable[..., ajit.Spec], tmp_path: Path
) -> None:
    """Compilers drop the second name of a directory, and look there for nothing."""
    link, other = tmp_path / "link", tmp_path / "other"
    link.symlink_to("user")
    other.mkdir()
    (other / "a.h").write_text(value(2))
    text = "#if __has_include(<a.h>)\n#include <a.h>\n#else\n#define V 1\n#endif"
    spec = asking(text, include_dirs=[user, link])
    first = server.check(spec)
    link.unlink()
    link.symlink_to("other")

    assert server.check(spec) != first


def test_headers_that_swap_their_places_are_seen(
    server: Server, user: Path, asking: Callable[..., ajit.Spec], tmp_path: Path
) -> None:
    """The same two files, each under the other's name."""
    other = tmp_path / "other"
    other.mkdir()
    for number, folder in enumerate((user, other)):
        (folder / "a.h").write_text(value(number))
    spec = asking("#include <a.h>", include_dirs=[user, other])
    first = server.check(spec)
    (user / "a.h").rename(tmp_path / "aside")
    (other / "a.h").rename(user / "a.h")
    (tmp_path / "aside").rename(other / "a.h")

    assert server.check(spec) != first


def test_a_directory_more_is_searched(
    server: Server, user: Path, tmp_path: Path, asking: Callable[..., ajit.Spec]
) -> None:
    """A header of the toolchain is found with one directory, and hidden by one of two."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "cuda_fp16.h").write_text("#define V 2\n")
    spec = asking("#include <cuda_fp16.h>\n#ifndef V\n#define V 1\n#endif")
    first = server.check(spec)
    second = server.check(spec.with_(include_dirs=[user, other]))

    assert second != first == server.check(spec)
    assert server.check(spec.with_(include_dirs=[])) == first


@pytest.mark.parametrize("written", ["/{}", "{}//", "{}/./"], ids=["root", "end", "dot"])
def test_a_directory_that_is_written_in_another_way_is_searched(
    server: Server, user: Path, asking: Callable[..., ajit.Spec], written: str
) -> None:
    """Two slashes at the beginning mean the root as well, and end no loop of their own."""
    spec = asking("#include <a.h>", include_dirs=[written.format(user)])

    assert server.check_edits(spec, user / "a.h").error
