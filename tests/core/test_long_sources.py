"""A spec is made in its caller's thread, mostly an event loop's: in time that grows with the text.

What is compared is the CPU time of one thread, of a text and of one eight times as long. Where the
work grows with the square, the ratio is 64.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from ajit._compile.worker.place import outward_path
from ajit._core.spec import Spec
from ajit.errors import SpecError
from tests.compile.support import job

if TYPE_CHECKING:
    from collections.abc import Callable

SHORT = 64 * 1024
TIMES = 8
AT_MOST = 24.0
"""Between 8 and 64; what is done once for any text only makes the ratio smaller."""

KERNEL = 'extern "C" __global__ void k(float* x) { x[0] = 1; }\n'
PIECES = {
    "escaped quotes": '\\"',
    "quotes": '"',
    "single quotes": "'",
    "brackets": "(",
    "angles": "<",
    "template heads": "template<",
    "beginnings of comments": "/*",
    "spliced lines": "\\\n",
    "digits": "1",
    "digits with separators": "1'",
    "letters": "a",
    "names": "k ",
    "beginnings of raw texts": 'R"(',
    "includes without an end": "#include <",
    "includes in quotes without an end": '#include "',
    "directives": "#\n",
    "conditions": "#if x\n",
    "skipped parts": "#if 0\n",
    "macros": "#define x y\n",
    "macros with parameters": "#define x(",
    "kernels": "__global__ void k(",
    "structs": "struct k ",
    "climbs": "../a",
}


TRIES = 3
"""What else the machine does makes a ratio larger or smaller, and not each time."""


def seconds(work: Callable[[str], object], piece: str, length: int, attempt: int = 0) -> float:
    """The CPU time that this thread needs for a text made of pieces: the least of three.

    Args:
        work: What takes the text.
        piece: What it is made of.
        length: How long it is.
        attempt: Which it is: no text is taken twice.
    """
    numbers = range(3 * attempt, 3 * attempt + 3)
    return min(_once(work, piece * (length // len(piece)) + f"\n{n}") for n in numbers)


def ratio(work: Callable[[str], object], piece: str) -> float:
    """How much more the long text takes, as soon as that is little enough."""
    found = float("inf")
    for attempt in range(TRIES):
        short = seconds(work, piece, SHORT, attempt)
        found = seconds(work, piece, SHORT * TIMES, attempt) / short
        if found < AT_MOST:
            break
    return found


def _once(work: Callable[[str], object], text: str) -> float:
    begun = time.thread_time()
    work(text)
    return time.thread_time() - begun


def spec_before(text: str) -> None:
    """Make a spec of a source with the text before its kernel."""
    with contextlib.suppress(SpecError):
        Spec(f"{text}\n{KERNEL}", "k")


def spec_behind(text: str) -> None:
    """Make a spec of a source with the text behind its kernel."""
    with contextlib.suppress(SpecError):
        Spec(KERNEL + text, "k")


@pytest.mark.parametrize("name", PIECES)
@pytest.mark.parametrize("work", [spec_before, spec_behind])
def test_a_spec_takes_time_in_proportion_to_its_source(
    work: Callable[[str], object], name: str
) -> None:
    """Also where the source is one long line that no compiler would take."""
    assert ratio(work, PIECES[name]) < AT_MOST


@pytest.mark.parametrize("text", ["a", "../a", "a/", ".", "/"])
def test_the_look_for_paths_that_climb_takes_time_in_proportion(text: str) -> None:
    """A compile worker looks at each line of a source that has ``../`` in it."""

    def look(line: str) -> None:
        outward_path(job(f'#include "../b.h" // {line}'))

    assert ratio(look, text) < AT_MOST
