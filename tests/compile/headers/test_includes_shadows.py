"""A user's header that a toolchain's own headers take in place of theirs is in the key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import ajit
from ajit._compile.headers.closure import HeaderIndex
from ajit._compile.headers.toolchain_headers import OwnHeaders
from tests.compile.headers.test_includes_kernels import value

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A toolchain's headers: ``api.h`` reaches ``deep/last.h`` and ``config.h`` behind it."""
    folder = tmp_path / "toolchain"
    (folder / "deep").mkdir(parents=True)
    (folder / "api.h").write_text("#include <deep/last.h>\n")
    (folder / "deep" / "last.h").write_text('#include "beside.h"\n')
    (folder / "deep" / "beside.h").write_text("#if 0\n#  include <config.h>\n#endif\n")
    (folder / "config.h").write_text("")
    (folder / "unused.h").write_text("")
    return folder


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A user's include directory."""
    folder = tmp_path / "user"
    (folder / "deep").mkdir(parents=True)
    return folder


def labels(own: Path, *dirs: Path, source: str = "#include <api.h>") -> list[str]:
    """The headers in the closure of a source."""
    spec = ajit.Spec(source, "k", include_dirs=dirs)
    return [label for label, _ in HeaderIndex().closure(spec, [str(own)]).parts]


def test_a_header_that_the_toolchain_would_include_is_in_the_closure(own: Path, user: Path) -> None:
    """Through three headers of the toolchain, and with what the user's own header includes."""
    (user / "config.h").write_text('#include "mine.h"')
    (user / "mine.h").write_text("")
    (user / "unused.h").write_text("")

    assert labels(own, user) == ["0/config.h", "0/mine.h"]


def test_a_header_beside_the_includer_is_in_the_closure_as_well(own: Path, user: Path) -> None:
    """A name too many costs a miss: compilers differ in where quotes look first."""
    (user / "deep" / "last.h").write_text("")
    (user / "beside.h").write_text("")

    assert labels(own, user) == ["0/beside.h", "0/deep/last.h"]


def test_an_edit_changes_the_digest(own: Path, user: Path) -> None:
    """And so does a header that goes away."""
    spec = ajit.Spec("#include <api.h>", "k", include_dirs=[user])
    index, seen = HeaderIndex(), []
    for text in ("one", "two"):
        (user / "config.h").write_text(text)
        seen.append(index.closure(spec, [str(own)]).parts)
    (user / "config.h").unlink()
    seen.append(index.closure(spec, [str(own)]).parts)

    assert len(set(seen)) == 3
    assert seen[-1] == ()


def test_a_toolchain_that_is_edited_is_followed_anew(own: Path, user: Path) -> None:
    """A compiler may be upgraded under a running server."""
    (user / "config.h").write_text("")
    spec = ajit.Spec("#include <api.h>", "k", include_dirs=[user])
    index = HeaderIndex()
    index.closure(spec, [str(own)])
    (own / "api.h").write_text("// nothing any more")

    assert index.closure(spec, [str(own)]).parts == ()


def test_without_a_shadow_the_toolchains_headers_are_not_read(
    own: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUB has 1 400 of them; a directory of the same name is no shadow yet."""
    (user / "deep" / "other.h").write_text("")
    monkeypatch.setattr(OwnHeaders, "_follow", lambda *_: pytest.fail("followed"))

    assert labels(own, user) == []


def test_the_toolchains_own_directory_shadows_nothing(
    own: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by another name: many name the toolkit's directory although they need not."""
    link = user / "cuda"
    link.symlink_to(own)
    monkeypatch.setattr(OwnHeaders, "_follow", lambda *_: pytest.fail("followed"))

    assert "0/api.h" in labels(own, link)


def test_links_in_a_circle_end(own: Path, user: Path) -> None:
    """Two directories that each hold many links to themselves."""
    for folder in (own, user):
        for number in range(10):
            (folder / f"again{number}").symlink_to(folder)

    assert labels(own, user) == []


@pytest.mark.anyio
async def test_a_kernel_sees_an_edit_that_only_the_standard_library_reads(
    user: Path, tmp_path: Path
) -> None:
    """``<cstring>`` includes ``<string.h>``, and every compiler takes the user's."""
    values = []
    for number in (1, 2):
        (user / "string.h").write_text(f"#include_next <string.h>\n#define V {number}.0f\n")
        values.append(await value("#include <cstring>", tmp_path / "cache", include_dirs=[user]))

    assert values == [1.0, 2.0]
