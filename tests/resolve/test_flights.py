"""Flights: one leader, one answer for all, and no member left behind."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from ajit._resolve.flight import Flights, FlightStatistics
from ajit._system.exceptions import copy_of
from ajit.errors import CompileError, RuntimeClosed, UnknownEntryPoint
from tests.cache.helpers import in_a_forked_child, in_thread, until

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "key"
CACHE = (1, 2)

pytestmark = pytest.mark.anyio


@pytest.fixture
def flights() -> Flights[str]:
    """A new table, which must be empty in the end."""
    table: Flights[str] = Flights()
    yield table
    gc.collect()
    assert table.statistics() == FlightStatistics(flights=0, members=0)


class Workers:
    """Tasks that want one key, and a leader's work that ends when the test says so."""

    def __init__(self, flights: Flights[str]) -> None:
        self.flights = flights
        self.finish = anyio.Event()
        self.error: Exception | None = None
        self.led: list[int] = []
        self.answers: dict[int, Any] = {}

    async def want(self, number: int) -> None:
        """Want the key, and keep what came of it."""
        try:
            self.answers[number] = await self._resolve(number)
        except CompileError as exc:
            self.answers[number] = exc

    async def _resolve(self, number: int) -> str:
        with self.flights.join(CACHE, KEY) as membership:
            answer = await membership.wait()
            if answer is None:
                self.led.append(number)
                await self.finish.wait()
                if self.error:
                    membership.fail(self.error)
                    raise self.error
                answer = f"answer of {number}"
                membership.finish(answer)
        return answer

    async def members(self, count: int) -> None:
        """Wait until so many want it."""
        await until(lambda: self.flights.statistics().members == count)


async def test_one_leads_and_all_get_the_answer(flights: Flights[str]):
    """A hundred tasks want one key: the work is done once."""
    workers = Workers(flights)
    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(workers.want, number)
        await workers.members(100)
        assert flights.statistics().flights == 1
        workers.finish.set()

    assert len(workers.led) == 1
    assert set(workers.answers.values()) == {f"answer of {workers.led[0]}"}


async def test_different_keys_and_caches_fly_apart(flights: Flights[str]):
    """A flight is of one key in one cache."""
    with (
        flights.join(CACHE, KEY) as one,
        flights.join(CACHE, "other key") as two,
        flights.join((3, 4), KEY) as three,
    ):
        assert (one.leading, two.leading, three.leading) == (True, True, True)
        assert one.others == 0


async def test_joining_after_the_end_starts_a_new_flight(flights: Flights[str]):
    """An answer is not kept: the cache does that."""
    with flights.join(CACHE, KEY) as first:
        assert first.finish("answer") == 0
        with flights.join(CACHE, KEY) as second:
            assert await second.wait() is None
            assert second.leading
            assert not first.leading


async def test_each_waiter_gets_a_copy_of_the_error(flights: Flights[str]):
    """Each waiter gets an equal error with its log; none shares a traceback with another."""
    workers = Workers(flights)
    workers.error = UnknownEntryPoint(
        entry="f", name="k", key="ab", compiler="nvrtc", log="the log"
    )
    workers.error.add_note("a note")
    workers.error.__cause__ = OSError("the cause")
    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(workers.want, number)
        await workers.members(10)
        workers.finish.set()

    errors = list(workers.answers.values())
    assert len({id(error) for error in errors}) == 10
    assert len({id(error.__traceback__) for error in errors}) == 10
    for error in errors:
        assert type(error) is UnknownEntryPoint
        assert (str(error), error.log, error.entry) == (str(workers.error), "the log", "f")
        assert error.__notes__ == ["a note"]
        assert error.__cause__ is workers.error.__cause__


async def test_an_error_of_the_leaders_runtime_is_not_shared(flights: Flights[str]):
    """That one runtime is closing is no answer for another: the lead is handed over."""
    with flights.join(CACHE, KEY) as leader, flights.join(CACHE, KEY) as follower:
        assert leader.fail(RuntimeClosed("closing")) == 0

        assert await follower.wait() is None
        assert follower.leading


async def test_a_leader_that_is_cancelled_hands_over(flights: Flights[str]):
    """The first of three is cancelled at work: the second does it, and the third gets it."""
    workers = Workers(flights)
    scopes = [anyio.CancelScope() for _ in range(3)]

    async def want(number: int) -> None:
        with scopes[number]:
            await workers.want(number)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(want, number)
            await workers.members(number + 1)
        await until(lambda: workers.led == [0])
        scopes[0].cancel()
        await until(lambda: workers.led == [0, 1])
        workers.finish.set()

    assert workers.answers == {1: "answer of 1", 2: "answer of 1"}


async def test_a_follower_that_is_cancelled_only_leaves(flights: Flights[str]):
    """The work goes on for the others, and the leader sees how many there are."""
    with flights.join(CACHE, KEY) as leader:
        async with anyio.create_task_group() as group:

            async def follow() -> None:
                with flights.join(CACHE, KEY) as follower:
                    await follower.wait()

            group.start_soon(follow)
            group.start_soon(follow)
            await until(lambda: leader.others == 2)
            group.cancel_scope.cancel()

        assert (leader.leading, leader.others) == (True, 0)
        assert leader.finish("answer") == 0


async def test_all_cancelled_at_once_leave_nothing(flights: Flights[str]):
    """Leader and followers go in one turn of the loop: the flight is over."""
    workers = Workers(flights)
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(workers.want, number)
        await workers.members(20)
        group.cancel_scope.cancel()

    assert workers.answers == {}
    assert flights.statistics() == FlightStatistics(flights=0, members=0)


async def test_a_lead_that_was_offered_and_never_taken_goes_on(flights: Flights[str]):
    """The next in line is cancelled between the offer and waking up: the one after it leads."""
    leader, second, third = (flights.join(CACHE, KEY) for _ in range(3))
    leader.leave()
    assert second.leading

    second.leave()

    assert await third.wait() is None
    third.finish("answer")
    for membership in (leader, second, third):
        membership.leave()


async def test_only_the_leader_ends_a_flight(flights: Flights[str]):
    """Followers, leavers and those who have ended it before are told."""
    with flights.join(CACHE, KEY) as leader, flights.join(CACHE, KEY) as follower:
        with pytest.raises(RuntimeError, match="only the leader"):
            follower.finish("answer")
        assert leader.finish("answer") == 1
        with pytest.raises(RuntimeError, match="only the leader"):
            leader.finish("another")

        assert await follower.wait() == "answer"


def test_a_member_whose_loop_has_ended_is_passed_over(flights: Flights[str]):
    """A lead offered to a dead loop goes on to a living one."""
    abandoned = []

    async def join_and_forget() -> None:
        abandoned.append(flights.join(CACHE, KEY))

    async def lead_and_leave() -> None:
        with flights.join(CACHE, KEY) as leader:
            assert leader.leading
            await anyio.to_thread.run_sync(anyio.run, join_and_forget)
            with flights.join(CACHE, KEY) as living:
                leader.leave()
                assert await living.wait() is None
                assert living.finish("answer") == 0

    anyio.run(lead_and_leave)
    assert not abandoned[0].leading


def test_loops_in_many_threads_share_one_flight(flights: Flights[str]):
    """Loops of asyncio and trio in one process: one leads, all get its answer, again and again."""
    rounds, threads = 30, 6
    barrier = threading.Barrier(threads)
    led: list[int] = []
    answers: list[str] = []

    async def want(turn: int) -> None:
        with flights.join(CACHE, str(turn)) as membership:
            answer = await membership.wait()
            if answer is None:
                led.append(turn)
                await until(lambda: membership.others == threads - 1)
                answer = f"{turn}"
                membership.finish(answer)
            answers.append(answer)

    def run(backend: str) -> None:
        for turn in range(rounds):
            barrier.wait()
            anyio.run(want, turn, backend=backend)

    run_in_threads(threads, lambda number: run("trio" if number % 2 else "asyncio"))

    assert led == list(range(rounds))
    assert len(answers) == rounds * threads
    assert set(answers) == {str(turn) for turn in range(rounds)}


def test_leaders_that_leave_in_many_threads_lose_no_member(flights: Flights[str]):
    """Each member leads in turn and leaves without an answer, until the last one has it."""
    threads, tasks = 4, 25
    led: list[int] = []

    async def want(number: int) -> None:
        with flights.join(CACHE, KEY) as membership:
            answer = await membership.wait()
            assert answer is None
            led.append(number)
            if len(led) == 1:
                await until(lambda: membership.others == threads * tasks - 1)

    async def many(first: int) -> None:
        async with anyio.create_task_group() as group:
            for number in range(first, first + tasks):
                group.start_soon(want, number)

    def run(number: int) -> None:
        anyio.run(many, number * tasks, backend="trio" if number % 2 else "asyncio")

    run_in_threads(threads, run)

    assert sorted(led) == list(range(threads * tasks))


async def test_a_forked_child_begins_without_flights(flights: Flights[str]):
    """The parent's flights are not the child's, and ending one there changes nothing here."""
    with flights.join(CACHE, KEY) as leader, flights.join(CACHE, KEY) as follower:

        def child() -> bool:
            begun = flights.statistics().flights
            follower.leave()
            leader.leave()
            return begun == 0

        assert await in_thread(in_a_forked_child, child)
        assert leader.leading
        assert leader.finish("answer") == 1
        assert await follower.wait() == "answer"


def test_an_abandoned_coroutine_may_be_collected_while_the_lock_is_held(flights: Flights[str]):
    """A loop was closed without ending its tasks: each leaves wherever it is collected."""

    async def lead() -> None:
        with flights.join(CACHE, KEY) as leader:
            assert leader.leading
            await anyio.sleep_forever()

    async def lead_and_be_forgotten() -> object:
        coroutine = lead()
        coroutine.send(None)
        return coroutine

    coroutines = [anyio.run(lead_and_be_forgotten)]
    with flights._locked():
        # As the garbage collector would, in the thread that has the lock.
        coroutines.clear()
        assert len(flights._table) == 1

    assert len(flights._table) == 0
    assert flights.statistics() == FlightStatistics(flights=0, members=0)


def test_an_exception_that_cannot_be_copied_is_shared():
    """An exception with an unusual constructor still reaches every member."""

    class OddError(Exception):
        def __init__(self, *, needed: int) -> None:
            super().__init__("odd")
            self.needed = needed

    odd, plain = OddError(needed=1), ValueError("plain", 2)

    assert copy_of(odd) is odd
    assert copy_of(plain) is not plain
    assert copy_of(plain).args == plain.args


async def test_a_membership_shows_its_state(flights: Flights[str]):
    """The representation shows members and state."""
    with flights.join(CACHE, KEY) as leader, flights.join(CACHE, KEY) as follower:
        assert repr(leader) == "<Membership leading others=1>"
        assert repr(follower) == "<Membership waiting others=1>"
        leader.finish("answer")
        assert repr(leader) == "<Membership over others=0>"
        assert "flights=0" in repr(flights)


def run_in_threads(count: int, function: Callable[[int], None]) -> None:
    """Run a function in threads, and raise what one of them raised."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            function(number)
        except BaseException as exc:
            errors.append(exc)
            raise

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
