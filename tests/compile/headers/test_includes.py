"""The header closure: everything that may be read, by content, without a path."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ajit._compile.headers.closure import ABSENT, Closure, HeaderIndex
from ajit._compile.headers.digests import FileStamp
from ajit._core.spec import Spec
from ajit.errors import IncludeError

if TYPE_CHECKING:
    from pathlib import Path

KERNEL = "__global__ void k() {}\n"


def spec(source: str, **options: object) -> Spec:
    """A spec that includes."""
    return Spec(source + "\n" + KERNEL, "k", **options)


def labels(closure: Closure) -> list[str]:
    """Labels of a closure's headers that were found."""
    return [label for label, digest in closure.parts if digest != ABSENT]


@pytest.fixture
def index() -> HeaderIndex:
    """An index without memory of other tests."""
    return HeaderIndex()


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A directory of headers: one includes a neighbour, one is in a folder and looks up."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.h").write_text('#include "b.h"\n')
    (tmp_path / "b.h").write_text("int b();\n")
    (tmp_path / "sub" / "c.h").write_text('#include "d.h"\n#include "../b.h"\n')
    (tmp_path / "sub" / "d.h").write_text("int d();\n")
    return tmp_path


def settle(path: Path) -> None:
    """Date a file back, so that its digest may be kept."""
    os.utime(path, (1_000_000_000, 1_000_000_000))


def test_includes_are_followed_through_include_dirs_and_neighbours(
    index: HeaderIndex, user: Path
) -> None:
    """Labels are the names as the compiler sees them, behind the number of the directory."""
    closure = index.closure(spec('#include <a.h>\n#include "sub/c.h"', include_dirs=[user]))

    assert labels(closure) == ["0/a.h", "0/b.h", "0/sub/c.h", "0/sub/d.h"]
    assert closure.missing == ()


def test_no_absolute_path_is_in_a_closure(index: HeaderIndex, user: Path, tmp_path: Path) -> None:
    """The same headers in another directory give the same closure."""
    elsewhere = tmp_path / "elsewhere"
    (user / "sub").rename(tmp_path / "kept")
    (tmp_path / "kept").rename(user / "sub")
    before = index.closure(spec('#include "sub/c.h"', include_dirs=[user]))
    elsewhere.mkdir()
    for name in ("sub", "b.h"):
        (user / name).rename(elsewhere / name)
    after = index.closure(spec('#include "sub/c.h"', include_dirs=[elsewhere]))

    assert before.parts == after.parts
    assert str(tmp_path) not in repr(after.parts)


def test_a_branch_that_is_not_taken_is_followed(index: HeaderIndex, user: Path) -> None:
    """Conditionals are ignored: a header too many only costs a miss."""
    closure = index.closure(spec('#if 0\n#include "a.h"\n#endif', include_dirs=[user]))

    assert labels(closure) == ["0/a.h", "0/b.h"]


def test_virtual_headers_are_followed(index: HeaderIndex, user: Path) -> None:
    """A virtual header's includes are part of the closure; its own text is in the key already."""
    headers = {"v.h": '#include "b.h"'}
    closure = index.closure(spec('#include "v.h"', include_dirs=[user], headers=headers))

    assert labels(closure) == ["0/b.h"]
    assert closure.missing == ()


def test_every_virtual_header_is_followed(index: HeaderIndex, user: Path) -> None:
    """Compilers differ in how they find one that another includes; all of them count."""
    headers = {"lib/v.h": '#include "w.h"', "lib/w.h": '#include "b.h"'}
    closure = index.closure(spec('#include "lib/v.h"', include_dirs=[user], headers=headers))

    assert labels(closure) == ["0/b.h"]


def test_forced_includes_and_directories_in_options_count(index: HeaderIndex, user: Path) -> None:
    """``-include`` and ``-I`` among the options name files that decide the result as well."""
    closure = index.closure(spec("", options=[f"-I{user}", "-include", "a.h"]))

    assert labels(closure) == ["0/a.h", "0/b.h"]


def test_a_cycle_ends(index: HeaderIndex, user: Path) -> None:
    """Headers that include each other are listed once."""
    (user / "b.h").write_text('#include "a.h"\n#include "b.h"\n')

    assert labels(index.closure(spec('#include "a.h"', include_dirs=[user]))) == ["0/a.h", "0/b.h"]


def test_the_toolchains_own_headers_are_not_followed(index: HeaderIndex, user: Path) -> None:
    """They are covered by the toolchain's fingerprint."""
    closure = index.closure(spec("#include <a.h>"), [str(user)])

    assert closure.parts == ()
    assert closure.missing == ()


def test_the_user_may_shadow_a_toolchain_header(
    index: HeaderIndex, user: Path, tmp_path: Path
) -> None:
    """The user's directories come first, as they do for the compiler."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "b.h").write_text("other")
    closure = index.closure(spec("#include <b.h>", include_dirs=[user]), [str(own)])

    assert labels(closure) == ["0/b.h"]


def test_an_include_that_is_nowhere_is_recorded_as_absent(index: HeaderIndex, user: Path) -> None:
    """When the file appears, the closure changes; until then a note says where it was sought."""
    wanted = spec('#include "a.h"\n#include "late.h"', include_dirs=[user])
    before = index.closure(wanted)
    (user / "late.h").write_text("")
    after = index.closure(wanted)

    assert ("late.h", ABSENT) in before.parts
    assert '"late.h" (k:2)' in str(before.note())
    assert str(user) in str(before.note())
    assert before.parts != after.parts
    assert after.note() is None


def test_has_include_sees_a_file_appear(index: HeaderIndex, user: Path) -> None:
    """``__has_include`` changes the result without including anything."""
    wanted = spec("#if __has_include(<late.h>)\n#endif", include_dirs=[user])
    before = index.closure(wanted)
    (user / "late.h").write_text("")
    after = index.closure(wanted)

    assert before.parts != after.parts
    assert before.missing == ()


def test_an_include_of_a_macro_needs_an_extra_digest(index: HeaderIndex, user: Path) -> None:
    """An include that cannot be followed is refused by its line, unless the spec vouches for it."""
    (user / "a.h").write_text("\n#include HEADER\n")
    with pytest.raises(IncludeError) as caught:
        index.closure(spec('#include "a.h"', include_dirs=[user]))
    vouched = index.closure(spec('#include "a.h"', include_dirs=[user], extra_digest="1"))

    assert (caught.value.include, caught.value.file, caught.value.line) == ("HEADER", "a.h", 2)
    assert labels(vouched) == ["0/a.h"]


def test_a_header_need_not_be_utf8(index: HeaderIndex, user: Path) -> None:
    """Headers are bytes."""
    (user / "latin.h").write_bytes(b'// caf\xe9\n#include "b.h"\n')

    assert labels(index.closure(spec('#include "latin.h"', include_dirs=[user]))) == [
        "0/b.h",
        "0/latin.h",
    ]


def test_a_directory_or_a_device_is_no_header(index: HeaderIndex, user: Path) -> None:
    """Only regular files are read: ``/dev/zero`` has no end."""
    (user / "zero.h").symlink_to("/dev/zero")
    closure = index.closure(spec('#include "zero.h"\n#include "sub"', include_dirs=[user]))

    assert closure.parts == (("sub", ABSENT), ("zero.h", ABSENT))


def test_settled_files_are_read_once(
    index: HeaderIndex, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second closure reads nothing."""
    monkeypatch.setattr(FileStamp, "settled", lambda _self: True)
    wanted = spec('#include "a.h"', include_dirs=[user])
    first = index.closure(wanted)
    reads = index.reads
    second = index.closure(wanted)

    assert first == second
    assert index.reads == reads == 2


def test_a_changed_header_changes_the_closure(index: HeaderIndex, user: Path) -> None:
    """Also when size and modification time stay the same, as after a checkout by some tools."""
    wanted = spec('#include "b.h"', include_dirs=[user])
    settle(user / "b.h")
    before = index.closure(wanted)
    (user / "b.h").write_text("int c();\n")
    settle(user / "b.h")

    assert before.parts != index.closure(wanted).parts
