"""When a result may depend on the name of its source although it does not hold it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ajit._compile.recorder.digests import FileStamp
from ajit._compile.recorder.own_names import asked_names
from ajit._compile.recorder.places import Places
from ajit._core.job import Seen, SeenRead

if TYPE_CHECKING:
    from pathlib import Path

CHECK = '#define CHECK(x) if (!(x)) printf("%s", __FILE__)\n'


def named(folder: Path, source: str, header: str, *, option: str = "") -> set[str]:
    """The places that count for a source which includes a header of another directory."""
    reads = []
    for place, name, text in (("i0", "k.cu", source), ("i1", "k.h", header)):
        path = folder / place / name
        path.parent.mkdir()
        path.write_text(text)
        stamp = tuple(FileStamp.of(str(path)) or ())
        reads.append(SeenRead(place, name, "file", stamp, time.time_ns() + 10**10))
    dirs = [(place, f"{folder}/{place}/") for place in ("i0", "i1")]
    path = f"{folder}/i0/k.cu"
    return asked_names(Seen(tuple(reads)), Places(dirs, path), [option.encode()], [path])


def test_a_header_that_does_not_ask_binds_nothing(tmp_path: Path) -> None:
    """Two directories share."""
    assert named(tmp_path, "CHECK(1);", "#define CHECK(x)\n") == set()


@pytest.mark.parametrize(
    "source",
    [
        "kernel<1>();",
        "using namespace deep; auto f = &kernel<1, Major::K>;",
        "// no macro of theirs",
    ],
)
def test_a_source_that_uses_no_such_macro_may_have_any_name(tmp_path: Path, source: str) -> None:
    """What the header says of itself is the header's name."""
    assert named(tmp_path, source, f"{CHECK}void kernel() {{ CHECK(1); }}\n") == {"i1"}


@pytest.mark.parametrize(
    ("source", "header"),
    [
        pytest.param("CHECK(1);", CHECK, id="used"),
        pytest.param(
            "OUTER;", f"{CHECK}#define INNER CHECK(1)\n#define OUTER INNER\n", id="led to"
        ),
        pytest.param("#define MY CHECK\nMY(1);", CHECK, id="renamed"),
        pytest.param("CHECK(1);", "#define CHECK(x) \\\n  f(__FILE__)\n", id="spliced"),
        pytest.param("CHECK(1);", "#define CHECK(x) /* a\n b */ f(__FILE__)\n", id="commented"),
        pytest.param("CHECK(1);", ' /**/ # /**/ define CHECK(x) "/*" __FILE__ // */', id="odd"),
        pytest.param("JOIN(CH, ECK)(1);", f"{CHECK}#define JOIN(a, b) a##b\n", id="pasted"),
        pytest.param(
            "f();", "inline void f(auto = std::source_location::current());", id="caller's"
        ),
        pytest.param("f();", "inline auto f() { return __BASE_FILE__; }", id="the source's"),
        pytest.param("auto n = __FILE__;", "", id="in the source"),
    ],
)
def test_a_source_that_may_use_such_a_macro_counts(
    tmp_path: Path, source: str, header: str
) -> None:
    """However it is led to."""
    assert "label" in named(tmp_path, source, header)


def test_an_option_may_bring_such_a_macro(tmp_path: Path) -> None:
    """A macro of the command line is used by the source."""
    assert "label" in named(tmp_path, "MY(1);", CHECK, option="-DMY=CHECK")
