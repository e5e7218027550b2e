"""A runtime's events: their order, progress of a warm-up, subscribers that break."""

from __future__ import annotations

import anyio
import pytest

import ajit
from tests.runtime.sources import ARCH, SAXPY, SYNTAX_ERROR, saxpy

pytestmark = pytest.mark.anyio


def steps(seen):
    """Return the events, without those of a compile that takes above a second."""
    return [event for event in seen if not isinstance(event, ajit.events.CompileRunning)]


def names(seen):
    """Return their kinds, in order."""
    return [type(event).__name__ for event in steps(seen)]


async def test_events_of_a_compile_come_in_order_with_key_and_duration(options):
    """Started, finished, ready: each with the label, the base key, and what it knows."""
    seen: list = []

    async with ajit.open_runtime(subscribers=[seen.append], **options) as rt:
        artifact = await rt.compile(SAXPY, arch=ARCH)

    _, started, finished, ready = steps(seen)
    assert names(seen) == ["KeyMade", "CompileStarted", "CompileFinished", "KernelReady"]
    assert {event.key for event in seen} == {artifact.base}
    assert ready.entry_key == artifact.key
    assert artifact.base[:16] == artifact.key[:16]
    assert {event.name for event in seen} == {"saxpy"}
    assert {event.entry for event in seen} == {"saxpy"}
    assert started.arch == ARCH
    assert started.reason.startswith("no such kernel was kept")
    assert finished.size_bytes == ready.size_bytes == artifact.size_bytes
    assert 0 < finished.seconds <= ready.seconds
    assert ready.tier == "compiled"


async def test_events_of_a_failure_say_why(options):
    """A rejected source is a CompileFailed with the compiler's words, and no KernelReady."""
    seen: list = []

    async with ajit.open_runtime(subscribers=[seen.append], **options) as rt:
        with pytest.raises(ajit.CompileError):
            await rt.compile(SYNTAX_ERROR, arch=ARCH)

    assert names(seen) == ["KeyMade", "CompileStarted", "CompileFailed"]
    assert "broken" in seen[-1].error


async def test_event_of_a_disk_hit_names_its_tier(options):
    """The second runtime compiles nothing and says so."""
    seen: list = []
    async with ajit.open_runtime(**options) as rt:
        await rt.compile(SAXPY, arch=ARCH)

    async with ajit.open_runtime(subscribers=[seen.append], **options) as rt:
        await rt.compile(SAXPY, arch=ARCH)

    made, read, ready = steps(seen)
    assert names(seen) == ["KeyMade", "EntryRead", "KernelReady"]
    assert ready.tier == "disk"
    assert read.entry_key == ready.entry_key
    assert made.seconds > 0 < read.seconds <= ready.seconds


async def test_subscriber_that_raises_is_reported_and_disturbs_no_other(options):
    """Its exception becomes a warning; the next subscriber and the compile get what is theirs."""
    seen: list = []

    def broken(event):
        raise LookupError("a broken log line")

    with pytest.warns(ajit.AjitWarning, match=r"broken.*LookupError: a broken log line"):
        async with ajit.open_runtime(subscribers=[broken, seen.append], **options) as rt:
            artifact = await rt.compile(SAXPY, arch=ARCH)

    assert names(seen) == ["KeyMade", "CompileStarted", "CompileFinished", "KernelReady"]
    assert artifact.name == "saxpy"


async def test_subscription_ends_when_asked(options):
    """Calling what `subscribe` returns removes the subscriber; calling it twice is harmless."""
    seen: list = []

    async with ajit.open_runtime(**options) as rt:
        stop = rt.subscribe(seen.append)
        await rt.compile(saxpy(1), arch=ARCH)
        stop()
        stop()
        await rt.compile(saxpy(2), arch=ARCH)

    assert len({event.key for event in seen}) == 1


async def test_events_are_delivered_in_the_loop(options):
    """A subscriber may use its event loop: it is called in it, never in a thread."""
    tasks: list = []

    def subscriber(event):
        if steps([event]):
            tasks.append(anyio.get_current_task().id)

    async with ajit.open_runtime(subscribers=[subscriber], **options) as rt:
        await rt.compile(SAXPY, arch=ARCH)

    assert len(tasks) == 4


async def test_warmup_reports_each_spec_and_survives_one_that_fails(options):
    """Progress counts to the total; the failure is in the report, and the others are ready."""
    progress: list = []
    specs = [saxpy(1), SYNTAX_ERROR, saxpy(2), saxpy(1)]

    async with ajit.open_runtime(**options) as rt:
        await rt.compile(saxpy(2), arch=ARCH)
        report = await rt.warmup(
            [spec.with_(arch=ARCH) for spec in specs], on_progress=progress.append
        )

    assert [event.done for event in progress] == [1, 2, 3]
    assert {event.total for event in progress} == {3}
    assert (report.total, report.compiled, report.from_disk) == (3, 1, 1)
    (failure,) = report.failures
    assert failure.spec.name == "broken"
    assert isinstance(failure.error, ajit.CompileError)
    assert [event.name for event in progress if event.error] == ["broken"]


async def test_warmup_with_a_device_loads_so_that_requests_are_hot(with_device):
    """After a warm-up requests are answered from memory, and a second one has nothing to do."""
    async with ajit.open_runtime(**with_device) as rt:
        first = await rt.warmup([saxpy(1), saxpy(2)])
        kernel = await rt.kernel(saxpy(1))
        again = await rt.warmup([saxpy(1), saxpy(2)])

    assert (first.compiled, first.from_memory) == (2, 0)
    assert (again.compiled, again.from_memory) == (0, 2)
    assert kernel.name == "saxpy"


async def test_empty_warmup_is_done_at_once(options):
    """Nothing to do is no error."""
    async with ajit.open_runtime(**options) as rt:
        report = await rt.warmup([])

    assert report.total == 0


async def test_request_during_a_warmup_is_not_queued_behind_it(options, compiler):
    """A warm-up leaves room: a request that comes meanwhile is served before its end."""
    progress: list = []
    specs = [saxpy(n, arch=ARCH) for n in range(1, 13)]

    async with (
        ajit.open_runtime(**{**options, "compile_slots": 1}) as rt,
        anyio.create_task_group() as group,
    ):
        group.start_soon(lambda: rt.warmup(specs, on_progress=progress.append))
        await compiler.wait_started(2)
        await rt.compile(saxpy(100), arch=ARCH)
        done_before = len(progress)

    assert done_before < len(specs) - 2
    assert len(progress) == len(specs)
