"""Why a kernel was compiled: the nearest cached one, and the file that made the difference.

Real compilers look for real headers, which appear, vanish, change and move between two compiles.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest

import ajit
from ajit.events import CompileStarted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KERNEL = '\nextern "C" __global__ void k(int* x) { x[0] = V; }\n'
ARCHS = {"nvrtc": "sm_90a", "host": platform.machine()}


class Answer(NamedTuple):
    """What came of one request."""

    key: str
    nearest: str
    parts: dict[str, tuple[str | None, str | None]]
    compiled: bool


class Asked:
    """A runtime that says of each compile why."""

    def __init__(self, cache: Path, compiler: str, folder: Path, **settings: Any) -> None:
        self.first, self.second = folder / "first", folder / "second"
        for directory in (self.first, self.second):
            directory.mkdir(parents=True)
        self._compiler: Any = compiler
        self._started: list[CompileStarted] = []
        self.opening = ajit.open_blocking_runtime(
            device="none",
            cache_dir=str(cache),
            explain=True,
            compile_slots=1,
            subscribers=[self._note],
            **settings,
        )

    def _note(self, event: object) -> None:
        if isinstance(event, CompileStarted):
            self._started.append(event)

    def spec(self, text: str, **changes: Any) -> ajit.Spec:
        """A kernel that reads headers."""
        dirs = changes.pop("include_dirs", [self.first, self.second])
        return ajit.Spec(
            text + KERNEL,
            "k",
            name="k",
            compiler=self._compiler,
            arch=ARCHS[self._compiler],
            include_dirs=dirs,
            **changes,
        )

    def ask(self, text: str, **changes: Any) -> Answer:
        """Ask for it, and say what was compiled, and why."""
        self._started.clear()
        artifact = self.runtime.compile(self.spec(text, **changes))
        if not self._started:
            return Answer(artifact.key, "", {}, compiled=False)
        (event,) = self._started
        parts = {part: (there, here) for part, there, here in event.differences}
        return Answer(artifact.key, event.nearest, parts, compiled=True)

    @property
    def runtime(self) -> Any:
        """The runtime, once it is open."""
        return self._runtime

    def __enter__(self) -> Self:
        self._runtime = self.opening.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.opening.__exit__(None, None, None)
        # A fixture's value lives longer than its test, and a runtime keeps its cache open.
        del self.opening, self._runtime


@pytest.fixture(params=["nvrtc", "host"])
def asked(request, tmp_path: Path) -> Iterator[Asked]:
    """A fresh cache, two include directories and a compiler."""
    with Asked(tmp_path / "cache", request.param, tmp_path) as opened:
        yield opened


INCLUDED = '#include "v.h"'
HAS = '#if __has_include("v.h")\n#define V 1\n#else\n#define V 2\n#endif'


def test_a_header_that_changed_is_named(asked):
    """With its digest then and now; changed back, nothing is compiled."""
    header = asked.first / "v.h"
    header.write_text("#define V 1\n")
    before = asked.ask(INCLUDED)
    header.write_text("#define V 22\n")
    after = asked.ask(INCLUDED)
    header.write_text("#define V 1\n")
    again = asked.ask(INCLUDED)

    assert (before.nearest, before.parts) == ("", {})
    assert after.nearest == before.key
    assert list(after.parts) == ["file i0/v.h"]
    there, here = after.parts["file i0/v.h"]
    assert there != here
    assert len(there) == len(here) == 64
    assert (again.key, again.compiled) == (before.key, False)


def test_a_header_that_appears_earlier_in_the_search_path_is_named(asked):
    """Nothing that was read has changed: it was looked for in vain, and is there now."""
    (asked.second / "v.h").write_text("#define V 1\n")
    before = asked.ask(INCLUDED)
    (asked.first / "v.h").write_text("#define V 2\n")
    after = asked.ask(INCLUDED)

    assert after.nearest == before.key
    assert list(after.parts) == ["file i0/v.h"]
    assert after.parts["file i0/v.h"][0] == "absent"
    assert len(after.parts["file i0/v.h"][1]) == 64


def test_a_header_that_vanished_is_named_with_what_is_read_in_its_place(asked):
    """It is absent, and one further on in the search path is found."""
    (asked.first / "v.h").write_text("#define V 1\n")
    (asked.second / "v.h").write_text("#define V 2\n")
    before = asked.ask(INCLUDED)
    (asked.first / "v.h").unlink()
    after = asked.ask(INCLUDED)

    assert after.nearest == before.key
    assert list(after.parts) == ["file i0/v.h", "file i1/v.h"]
    assert after.parts["file i0/v.h"][1] == "absent"
    assert after.parts["file i1/v.h"][0] is None


@pytest.mark.parametrize("to_front", [True, False])
def test_a_header_that_moved_in_the_search_path_is_named_in_both_places(asked, to_front):
    """Its content is the same, and so is the kernel; but it is another file."""
    old, new = (asked.second, asked.first) if to_front else (asked.first, asked.second)
    (old / "v.h").write_text("#define V 1\n")
    before = asked.ask(INCLUDED)
    (old / "v.h").rename(new / "v.h")
    after = asked.ask(INCLUDED)

    assert after.nearest == before.key
    assert sorted(after.parts) == ["file i0/v.h", "file i1/v.h"]
    was, now = ("file i1/v.h", "file i0/v.h") if to_front else ("file i0/v.h", "file i1/v.h")
    assert after.parts[was][1] == "absent"
    assert after.parts[now][1] == after.parts[was][0]


@pytest.mark.parametrize("appears", [True, False])
def test_a_header_that_was_only_asked_for_is_named(asked, appears):
    """`__has_include` reads nothing, and still decides."""
    header = asked.first / "v.h"
    if not appears:
        header.write_text("")
    before = asked.ask(HAS)
    if appears:
        header.write_text("")
    else:
        header.unlink()
    after = asked.ask(HAS)

    assert after.nearest == before.key
    assert list(after.parts) == ["file i0/v.h"]
    assert after.parts["file i0/v.h"][0 if appears else 1] == "absent"
    assert after.parts["file i0/v.h"][1 if appears else 0] != "absent"


def test_directories_in_another_order_are_told_by_their_files(asked):
    """Which of two headers of one name comes first has changed."""
    (asked.first / "v.h").write_text("#define V 1\n")
    (asked.second / "v.h").write_text("#define V 2\n")
    before = asked.ask(INCLUDED)
    after = asked.ask(INCLUDED, include_dirs=[asked.second, asked.first])

    assert after.nearest == before.key
    assert list(after.parts) == ["file i0/v.h"]


def test_a_directory_that_moved_is_named_where_the_result_holds_its_path(asked, tmp_path):
    """Nothing in the files tells it."""
    text = '#include "v.h"\n__device__ const char* at() { return WHERE; }'
    (asked.first / "v.h").write_text("#define V 1\n#define WHERE __FILE__\n")
    before = asked.ask(text)
    moved = tmp_path / "moved"
    asked.first.rename(moved)
    after = asked.ask(text, include_dirs=[moved, asked.second])

    assert after.nearest == before.key
    assert list(after.parts) == ["path of i0"]


def test_the_same_request_with_another_header_is_nearest(asked):
    """Although a kernel of another macro, compiled since, has the header of today."""
    header = asked.first / "v.h"
    header.write_text("#define V 1\n")
    before = asked.ask(INCLUDED)
    header.write_text("#define V 22\n")
    asked.ask(INCLUDED, defines={"OTHER": 1})
    after = asked.ask(INCLUDED)

    assert after.nearest == before.key
    assert list(after.parts) == ["file i0/v.h"]


def test_of_several_contents_the_last_one_is_nearest(asked):
    """What it was before the edit that one has just made."""
    header = asked.first / "v.h"
    answers = []
    for value in (1, 22, 333):
        header.write_text(f"#define V {value}\n")
        answers.append(asked.ask(INCLUDED))

    assert answers[2].nearest == answers[1].key


def test_another_macro_and_another_header_are_both_named(asked):
    """The nearest has another base key, and its files count as well."""
    (asked.second / "v.h").write_text("#define V 1\n")
    before = asked.ask(INCLUDED, defines={"N": 1})
    (asked.first / "v.h").write_text("#define V 2\n")
    after = asked.ask(INCLUDED, defines={"N": 2})

    assert after.nearest == before.key
    assert list(after.parts) == ["define N", "file i0/v.h"]


def test_a_reading_list_that_was_evicted_is_named(asked, tmp_path):
    """The entry is there, and nothing leads to it."""
    (asked.first / "v.h").write_text("#define V 1\n")
    before = asked.ask(INCLUDED)
    for file in (tmp_path / "cache" / "reads").glob("*/*/*"):
        file.unlink()
    with Asked(tmp_path / "cache", asked._compiler, tmp_path / "again") as later:
        later.first, later.second = asked.first, asked.second
        after = later.ask(INCLUDED)

    assert after.nearest == before.key
    assert list(after.parts) == ["reading list"]
