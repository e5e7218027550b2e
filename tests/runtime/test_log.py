"""Log lines of waits: the first soon, then one every ten seconds, however rare the reports are."""

from __future__ import annotations

import logging
from itertools import pairwise

import anyio
import pytest

import ajit
from ajit import events
from ajit._runtime.log import QUIET_WAIT_SECONDS, REPEAT_SECONDS, LogLines

pytestmark = pytest.mark.anyio

KEY, OTHER_KEY = "a" * 64, "b" * 64


@pytest.fixture
async def written(caplog):
    """Hands events to the log; returns after how many seconds of waiting each line was written."""
    caplog.set_level(logging.WARNING, "ajit")

    async def write(happened):
        lines = LogLines(anyio.CapacityLimiter(1))
        for event in happened:
            lines(event)
        await lines.aclose()
        return [float(line.split("waiting for ")[1].split(" ")[0]) for line in caplog.messages]

    return write


def waiting(seconds: float, key: str = KEY) -> events.Waiting:
    """A report."""
    return events.Waiting(name="k", key=key, holder=None, waited_seconds=seconds)


def reports(every: float, until: float = 60.0) -> list[events.Waiting]:
    """Reports of one wait, from its beginning."""
    return [waiting(number * every) for number in range(int(until / every))]


@pytest.mark.parametrize("every", [0.25, 0.95, 1.0, 1.25, 2.0, 3.0, 5.0, 12.5])
async def test_every_wait_is_logged_at_first_and_then_about_every_ten_seconds(written, every):
    """Reports come when a look at the disk is done: with a thousand waiters each ten seconds."""
    seconds = await written(reports(every))

    pauses = [later - earlier for earlier, later in pairwise(seconds)]
    slack = every + 0.1  # a report may have been just too early, and a line has one digit
    assert QUIET_WAIT_SECONDS <= seconds[0] <= QUIET_WAIT_SECONDS + slack
    assert all(REPEAT_SECONDS - 0.1 <= pause <= REPEAT_SECONDS + slack for pause in pauses)
    assert seconds[-1] >= 60 - REPEAT_SECONDS - 2 * slack


async def test_short_wait_is_not_logged(written):
    """Not logged."""
    assert await written([waiting(0.0), waiting(0.4)]) == []


async def test_waits_for_two_keys_are_logged_each(written):
    """The one says nothing about the other."""
    assert await written([waiting(1.0), waiting(1.2, OTHER_KEY), waiting(2.0)]) == [1.0, 1.2]


async def test_next_wait_for_a_key_is_logged_anew(written):
    """After one that ended, and after one that was cancelled and so never said that it ended."""
    ended = events.WaitEnded(name="k", key=KEY, holder=None, waited_seconds=1.1, outcome="lease")

    waits = [waiting(1.0), ended, waiting(1.1), waiting(0.1), waiting(1.2), waiting(0.9)]

    assert await written(waits) == [1.0, 1.1, 1.2, 0.9]


async def test_failed_compile_is_logged_with_the_compilers_first_error(caplog):
    """One line: kernel once, and the error with its file and line."""
    caplog.set_level(logging.WARNING, "ajit")
    log = "saxpy.cu(2): warning: unused\nsaxpy.cu(3): error: identifier is undefined\n1 error"
    error = ajit.CompileError(name="saxpy", key=KEY, compiler="nvrtc 13.0", log=log)
    failed = events.CompileFailed(name="saxpy", key=KEY, error=str(error), seconds=0.25)
    lines = LogLines(anyio.CapacityLimiter(1))
    lines(failed)
    await lines.aclose()

    expected = "compile failed after 0.25 s: saxpy.cu(3): error: identifier is undefined"
    assert caplog.messages == [f"saxpy ({KEY[:16]}): {expected}"]


async def test_compile_is_logged_when_it_starts_and_when_it_ends(caplog):
    """Two lines of level INFO: an operator sees which kernel is being compiled."""
    caplog.set_level(logging.INFO, "ajit")
    about = {"name": "saxpy", "key": KEY, "compiler": "nvrtc 13.0", "arch": "sm_90a"}
    lines = LogLines(anyio.CapacityLimiter(1))
    lines(events.CompileStarted(**about))
    lines(events.CompileFinished(**about, seconds=1.5, size_bytes=1))
    await lines.aclose()

    expected = ["compiling with nvrtc 13.0 for sm_90a", "compiled by nvrtc 13.0 in 1.50 s"]
    assert caplog.messages == [f"saxpy ({KEY[:16]}): {text}" for text in expected]


async def test_wait_for_a_permit_is_logged_after_a_while_once_for_all_compiles(caplog):
    """That other compiles of the machine go first is usual; that they do so for long is not."""
    caplog.set_level(logging.WARNING, "ajit")
    holder = events.Holder(host="h", pid=7, phase="compiling", compiler="nvcc", age_seconds=20.0)
    lines = LogLines(anyio.CapacityLimiter(1))
    for key in (KEY, OTHER_KEY):
        for seconds in (1.0, REPEAT_SECONDS + 0.5, REPEAT_SECONDS + 1.5):
            lines(events.WaitingForPermit(name="k", key=key, holder=holder, waited_seconds=seconds))
    await lines.aclose()

    (line,) = caplog.messages
    assert line.startswith(f"k ({KEY[:16]}): queued for 10.5 s for a compile permit")
    assert "pid 7 on h" in line


async def test_what_another_process_calls_itself_cannot_forge_a_line(caplog):
    """Nor act on the terminal that shows the log. What was replaced stays visible."""
    caplog.set_level(logging.WARNING, "ajit")
    host = "node\n2026-01-01 ajit: all is well\x1b[2J\u202e"
    holder = events.Holder(host=host, pid=7, phase="compiling", compiler="nvrtc", age_seconds=1.0)
    lines = LogLines(anyio.CapacityLimiter(1))
    lines(events.Waiting(name="k", key=KEY, holder=holder, waited_seconds=1.0))
    await lines.aclose()

    [line] = caplog.messages
    assert r"node\n2026-01-01 ajit: all is well\x1b[2J\u202e" in line
    assert line.isprintable()
