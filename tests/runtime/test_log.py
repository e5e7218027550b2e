"""Log lines of waits: the first soon, then one every ten seconds, however rare the reports are."""

from __future__ import annotations

import json
import logging
from itertools import pairwise

import anyio
import pytest
import structlog

import ajit
from ajit import events
from ajit._runtime.log import QUIET_WAIT_SECONDS, REPEAT_SECONDS, LogLines
from ajit._runtime.log_lines import MOST_CHARACTERS

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


@pytest.fixture
async def records(caplog):
    """Hands events to the log, and returns the records that came out."""
    caplog.set_level(logging.DEBUG, "ajit")

    async def write(*happened):
        caplog.clear()
        lines = LogLines(anyio.CapacityLimiter(1))
        for event in happened:
            lines(event)
        await lines.aclose()
        # A live page of the test before may still look, in a thread of its own.
        return [record for record in caplog.records if record.name != "ajit.dashboard"]

    return write


async def test_compile_that_goes_on_is_told_every_ten_seconds_by_the_process_that_does_it(records):
    """With the CPU time of its compiler; a short one is not, and the next one is told anew."""
    about = {"name": "saxpy", "key": KEY, "compiler": "nvcc 13.0", "arch": "sm_90a"}

    def running(seconds: float) -> events.CompileRunning:
        return events.CompileRunning(**about, seconds=seconds, cpu_seconds=seconds / 2)

    finished = events.CompileFinished(**about, seconds=31.0, size_bytes=1)
    first = [running(number + 0.2) for number in range(31)]
    again = [running(number + 0.4) for number in range(12)]

    written = await records(*first, finished, *again)

    texts = [record.getMessage().partition("): ")[2] for record in written]
    assert texts == [
        "still compiling with nvcc 13.0 after 10 s (5.1 s CPU)",
        "still compiling with nvcc 13.0 after 20 s (10.1 s CPU)",
        "still compiling with nvcc 13.0 after 30 s (15.1 s CPU)",
        "compiled by nvcc 13.0 in 31.00 s",
        "still compiling with nvcc 13.0 after 10 s (5.2 s CPU)",
    ]


ABOUT = {"name": "saxpy", "key": KEY}
NOWHERE = {"name": "", "key": ""}
HOLDER = events.Holder(
    host="node3", pid=7, phase="publishing", compiler="nvcc 13.0", age_seconds=2.5
)


@pytest.mark.parametrize(
    ("event", "logger", "level", "text", "fields"),
    [
        (
            events.CompileStarted(
                **ABOUT, compiler="nvcc 13.0", arch="sm_90a", reason="its entry is gone"
            ),
            "compile",
            "INFO",
            f"saxpy ({KEY[:16]}): compiling with nvcc 13.0 for sm_90a: its entry is gone",
            {"phase": "compiling", "compiler": "nvcc 13.0", "arch": "sm_90a"},
        ),
        (
            events.CompileFinished(
                **ABOUT, compiler="nvcc", arch="", seconds=1.25, size_bytes=9, queued_seconds=3.0
            ),
            "compile",
            "INFO",
            f"saxpy ({KEY[:16]}): compiled by nvcc in 1.25 s, after 3.0 s in the queue",
            {"phase": "compiled", "seconds": 1.25, "size_bytes": 9, "queued_seconds": 3.0},
        ),
        (
            events.Waiting(**ABOUT, holder=HOLDER, waited_seconds=1.5),
            "wait",
            "WARNING",
            (
                f"saxpy ({KEY[:16]}): waiting for 1.5 s for pid 7 on node3, publishing with "
                "nvcc 13.0 for 2.5 s"
            ),
            {"phase": "publishing", "seconds": 1.5, "holder_pid": 7, "holder_host": "node3"},
        ),
        (
            events.EntryRejected(**ABOUT, reason="checksum"),
            "cache",
            "WARNING",
            f"saxpy ({KEY[:16]}): cached entry does not verify: checksum",
            {"reason": "checksum"},
        ),
        (
            events.CacheUnwritable(**ABOUT, reason="No space left on device"),
            "cache",
            "WARNING",
            f"saxpy ({KEY[:16]}): not kept, the cache cannot be written: No space left on device",
            {"reason": "No space left on device"},
        ),
        (
            events.CacheUnresponsive(**NOWHERE, reason="stat hung"),
            "cache",
            "WARNING",
            "the kernel cache does not answer: stat hung",
            {},
        ),
        (
            events.EntriesEvicted(
                **NOWHERE,
                entries=12,
                others=3,
                size_bytes=3 << 20,
                kept_entries=40,
                kept_bytes=5 << 20,
                limit_bytes=8 << 20,
            ),
            "cache",
            "INFO",
            (
                "evicted 12 entries and 3 other files, 3.0 MiB; 40 entries are left, 5.0 MiB "
                "of 8.0 MiB"
            ),
            {"entries": 12, "kept_entries": 40},
        ),
        (
            events.BackgroundFailed(**NOWHERE, doing="evict", reason="Permission denied"),
            "cache",
            "WARNING",
            "upkeep of the cache: files could not be removed: Permission denied",
            {"doing": "evict"},
        ),
        (
            events.FallbackUsed(**ABOUT, fallback="plain"),
            "kernel",
            "INFO",
            f"saxpy ({KEY[:16]}): the fallback 'plain' serves meanwhile",
            {"fallback": "plain"},
        ),
        (
            events.DeviceStalled(**NOWHERE, operation="launch", seconds=12.0, in_flight=4),
            "device",
            "WARNING",
            (
                "the CUDA thread has been in one operation (launch) for 12.0 s; 4 tickets wait for "
                "the device"
            ),
            {"operation": "launch", "in_flight": 4},
        ),
        (
            events.DeviceLost(name="H200", key="", code=700),
            "device",
            "ERROR",
            (
                "device H200 is lost, with the driver's code 700: all its work fails from now on; "
                "end the process"
            ),
            {"code": 700},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, events.Event) else "",
)
async def test_line_has_a_logger_a_level_and_fields(records, event, logger, level, text, fields):
    """Formatters that write JSON, and structlog, get key, phase and seconds without parsing."""
    (record,) = await records(event)

    assert (record.name, record.levelname) == (f"ajit.{logger}", level)
    assert record.getMessage() == text
    assert record.kind == type(event).__name__
    assert {name: getattr(record, name, None) for name in fields} == fields
    if event.key:
        assert (record.kernel, record.key) == ("saxpy", KEY)


async def test_fields_go_through_json_and_through_structlog(records):
    """Plain values, and none under a name that a record or structlog has for its own."""
    (record,) = await records(events.Waiting(**ABOUT, holder=HOLDER, waited_seconds=1.5))
    adder = structlog.stdlib.ExtraAdder()

    added = adder(None, "warning", {"event": record.getMessage(), "_record": record})

    fields = {name: added[name] for name in ("kind", "kernel", "key", "phase", "seconds")}
    assert json.loads(json.dumps(fields)) == {
        "kind": "Waiting",
        "kernel": "saxpy",
        "key": KEY,
        "phase": "publishing",
        "seconds": 1.5,
    }
    assert added["event"] == record.getMessage()


async def test_long_name_fills_neither_line_nor_field(records):
    """A generated kernel may be called by all of its template arguments."""
    (record,) = await records(events.EntryRejected(name="k" * 1_000_000, key=KEY, reason="x"))

    assert len(record.getMessage()) < 500
    assert len(record.kernel) == MOST_CHARACTERS


async def test_compilers_log_does_not_fill_the_fields(records):
    """It may have megabytes."""
    failed = events.CompileFailed(**ABOUT, error="x\n" * 1_000_000, seconds=1.0)

    (record,) = await records(failed)

    assert len(record.error) <= 2 * MOST_CHARACTERS


async def test_unwritable_cache_and_fallbacks_do_not_flood_the_log(records):
    """A full disk is told once for all kernels, a fallback once for each kernel, in ten seconds."""
    full = [
        events.CacheUnwritable(name=f"k{number}", key=KEY, reason="full") for number in range(100)
    ]
    served = [events.FallbackUsed(name=name, key="", fallback="f") for name in "ababab"]

    written = await records(*full, *served)

    assert [record.kind for record in written] == ["CacheUnwritable", *["FallbackUsed"] * 2]
