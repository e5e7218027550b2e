"""Two event loops in two threads of one process, on one cache: they share each other's flights."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import numpy as np
import pytest

import ajit
from ajit._resolve.flight import flights
from tests.runtime.sources import ARCH, SAXPY, SYNTAX_ERROR, saxpy

if TYPE_CHECKING:
    from collections.abc import Callable

LOOPS = [("asyncio", "trio"), ("trio", "asyncio"), ("asyncio", "asyncio")]
WAIT_SECONDS = 60.0


class LoopThread:
    """A thread with an event loop and a runtime, that resolves one spec.

    Attributes:
        seen: The runtime's events.
        outcome: The resolution, or what was raised.
    """

    def __init__(self, backend: str, options: dict[str, Any], spec: ajit.Spec) -> None:
        self.seen: list[Any] = []
        self.outcome: Future[Any] = Future()
        self._spec, self._options = spec, options
        self._may_close = threading.Event()
        run = partial(anyio.run, self._main, backend=backend)
        # A daemon, so that a loop which hangs fails its test and does not hold up the others.
        self._thread = threading.Thread(target=run, name=backend, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the runtime, whatever it is doing, and end the loop."""
        self._may_close.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive(), "the loop does not end"

    def compiles(self) -> int:
        """How many compiles this runtime has started."""
        return sum(type(event).__name__ == "CompileStarted" for event in self.seen)

    async def _main(self) -> None:
        async with (
            anyio.create_task_group() as group,
            ajit.open_runtime(subscribers=[self.seen.append], **self._options) as rt,
        ):
            group.start_soon(self._resolve, rt)
            await anyio.to_thread.run_sync(self._may_close.wait)

    async def _resolve(self, rt: ajit.Runtime) -> None:
        try:
            self.outcome.set_result(await rt.resolve(self._spec, arch=ARCH))
        except Exception as exc:  # noqa: BLE001  # the test looks at it, whatever it is
            self.outcome.set_exception(exc)


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def leader_and_follower(backends, options, compiler, spec=SAXPY):
    """Return two loops: the first compiles, held at the gate, and the second waits for it."""
    compiler.hold()
    leader = LoopThread(backends[0], options, spec)
    until(lambda: compiler.started == 1 or leader.outcome.done())
    follower = LoopThread(backends[1], options, spec)
    until(lambda: flights.statistics().members == 2 or follower.outcome.done())
    return leader, follower


@pytest.mark.parametrize("backends", LOOPS, ids="-".join)
def test_two_loops_share_one_compile(backends, options, compiler):
    """The second loop waits for the first one's compile, and both get the same artifact."""
    leader, follower = leader_and_follower(backends, options, compiler)

    compiler.let_go()
    answers = [loop.outcome.result(WAIT_SECONDS) for loop in (leader, follower)]
    for loop in (leader, follower):
        loop.close()

    assert compiler.started == 1
    assert (leader.compiles(), follower.compiles()) == (1, 0)
    assert answers[0].artifact == answers[1].artifact


@pytest.mark.parametrize("backends", LOOPS, ids="-".join)
def test_closing_the_leaders_runtime_lets_the_follower_take_over(backends, options, compiler):
    """The first loop goes away in the middle: the second compiles, and does not hang."""
    leader, follower = leader_and_follower(backends, options, compiler)

    leader.close()
    until(lambda: compiler.started == 2 or follower.outcome.done())
    compiler.let_go()
    answer = follower.outcome.result(WAIT_SECONDS)
    follower.close()

    with pytest.raises(ajit.RuntimeClosed):
        leader.outcome.result(0)
    assert answer.tier == "compiled"
    assert follower.compiles() == 1


@pytest.mark.parametrize("backends", LOOPS, ids="-".join)
def test_closing_the_followers_runtime_leaves_the_leader_alone(backends, options, compiler):
    """A task that only waits may leave at any time."""
    leader, follower = leader_and_follower(backends, options, compiler)

    follower.close()
    compiler.let_go()
    answer = leader.outcome.result(WAIT_SECONDS)
    leader.close()

    with pytest.raises(ajit.RuntimeClosed):
        follower.outcome.result(0)
    assert answer.tier == "compiled"
    assert compiler.started == 1


def test_compile_error_reaches_both_loops_as_copies(options, compiler):
    """The waiter in the other loop gets the holder's error, with its log, and compiles nothing."""
    loops = leader_and_follower(("asyncio", "trio"), options, compiler, SYNTAX_ERROR)

    compiler.let_go()
    errors = [loop.outcome.exception(WAIT_SECONDS) for loop in loops]
    for loop in loops:
        loop.close()

    assert [type(error) for error in errors] == [ajit.CompileError, ajit.CompileError]
    assert errors[0] is not errors[1]
    assert errors[0].log == errors[1].log != ""
    assert [loop.compiles() for loop in loops] == [1, 0]


def test_loops_with_different_keys_do_not_wait_for_each_other(options, compiler):
    """Only the same key is shared."""
    compiler.hold()
    loops = [LoopThread("asyncio", options, saxpy(n)) for n in (1, 2, 3)]

    until(lambda: compiler.started == 3)
    compiler.let_go()
    answers = [loop.outcome.result(WAIT_SECONDS) for loop in loops]
    for loop in loops:
        loop.close()

    assert len({answer.artifact.key for answer in answers}) == 3


def test_two_loops_that_want_the_same_many_kernels_do_not_hang(options, compiler):
    """Opposite orders, one slot each, one permit for both: flights, credits and leases all meet."""
    one_at_a_time = {**options, "compile_slots": 1, "node_compile_slots": 1}
    specs = [saxpy(n, arch=ARCH) for n in range(1, 21)]
    reports: dict[str, Any] = {}

    async def main(backend, warm, awaited):
        async with (
            ajit.open_runtime(**one_at_a_time) as rt,
            anyio.create_task_group() as group,
        ):
            for spec in awaited:
                group.start_soon(rt.compile, spec)
            reports[backend] = await rt.warmup(warm)

    threads = [
        threading.Thread(target=partial(anyio.run, main, *args, backend=args[0]), daemon=True)
        for args in (("asyncio", specs, specs[::-1]), ("trio", specs[::-1], specs))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * WAIT_SECONDS)

    assert not any(thread.is_alive() for thread in threads)
    assert [len(report.failures) for report in reports.values()] == [0, 0]
    assert compiler.started == len(specs)


def test_two_loops_share_one_device_thread(with_device):
    """Each loop has its own runtime, loads for itself, and its tickets wake its own tasks."""
    results: dict[str, float] = {}
    both = threading.Barrier(2)

    async def main(backend):
        async with ajit.open_runtime(**with_device) as rt:
            await anyio.to_thread.run_sync(both.wait)
            kernel = await rt.kernel(SAXPY)
            x = await rt.device.upload(np.ones(8, np.float32))
            for _ in range(20):
                await kernel.launch(1, 8, 1.0, x, x, 8)
            results[backend] = float(np.asarray(await rt.device.download(x))[0])
            await anyio.to_thread.run_sync(both.wait)

    threads = [
        threading.Thread(target=partial(anyio.run, main, backend, backend=backend))
        for backend in ("asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == {"asyncio": 2.0**20, "trio": 2.0**20}
