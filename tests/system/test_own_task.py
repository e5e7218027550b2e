"""A context that a task of its own holds open."""

from __future__ import annotations

import asyncio
import warnings
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

import ajit
from ajit._system.own_task import OwnTask
from ajit._system.uncancelled import uncancelled

pytestmark = pytest.mark.anyio


class Context:
    """A context with a task group, which only the task that entered it can leave.

    Attributes:
        steps: What has happened.
        group: The group.
    """

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.may_enter, self.may_leave = anyio.Event(), anyio.Event()
        self.entering, self.leaving = anyio.Event(), anyio.Event()
        self.may_enter.set()
        self.may_leave.set()

    @asynccontextmanager
    async def __call__(self):
        """Make the context."""
        self.entering.set()
        await self.may_enter.wait()
        try:
            async with anyio.create_task_group() as self.group:
                self.group.start_soon(anyio.sleep_forever)
                self.steps.append("entered")
                try:
                    yield self
                finally:
                    self.group.cancel_scope.cancel()
        finally:
            self.leaving.set()
            with anyio.CancelScope(shield=True):
                await uncancelled(self._leave)

    async def _leave(self):
        await self.may_leave.wait()
        self.steps.append("left")


@pytest.fixture
def context():
    """A context that enters and leaves at once."""
    return Context()


async def open_context(context):
    """Let a task hold it open."""
    return await OwnTask.open(context, name="a context")


async def test_any_task_leaves_the_context(context):
    """Twice is fine."""
    async with anyio.create_task_group() as group:
        owns = []

        async def enter():
            owns.append(await open_context(context))

        group.start_soon(enter)
    async with anyio.create_task_group() as group:
        group.start_soon(owns[0].aclose)
        group.start_soon(owns[0].aclose)

    assert context.steps == ["entered", "left"]


async def test_cancelled_opening_leaves_what_it_entered(context):
    """While it enters: nothing was entered. Once it has: it is left before the end."""
    context.may_enter = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(open_context, context)
        await context.entering.wait()
        group.cancel_scope.cancel()
    assert context.steps == []

    context.may_enter.set()
    async with anyio.create_task_group() as group:
        group.cancel_scope.cancel()
        await open_context(context)
    assert context.steps in ([], ["entered", "left"])


async def test_cancelled_closing_goes_on(context):
    """The wait ends, and the context is left in its own task."""
    context.may_leave = anyio.Event()
    own = await open_context(context)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await own.aclose()
    assert context.steps == ["entered"]
    context.may_leave.set()
    await own.aclose()

    assert context.steps == ["entered", "left"]


async def test_closing_to_the_end_raises_the_cancellation_then(context):
    """Not before the context was left."""
    context.may_leave = anyio.Event()
    own = await open_context(context)
    cancelled = []
    async with anyio.create_task_group() as group:

        async def close():
            try:
                await own.aclose_uncancelled()
                await anyio.lowlevel.checkpoint()
            except anyio.get_cancelled_exc_class():
                cancelled.append(list(context.steps))
                raise

        group.start_soon(close)
        await context.leaving.wait()
        group.cancel_scope.cancel()
        context.may_leave.set()

    assert cancelled == [["entered", "left"]]


async def test_error_of_entering_is_raised_to_who_opens(context):
    """Nothing else hears of it."""

    @asynccontextmanager
    async def fails():
        raise ValueError("no")
        yield

    with pytest.raises(ValueError, match="no"):
        await OwnTask.open(fails, name="a context")


async def test_error_in_the_context_is_a_warning_and_raised_to_who_closes(context):
    """It cancels no task of the user, and does not end the loop (trio)."""

    async def fail():
        raise ValueError("inside")

    own = await open_context(context)
    context.group.start_soon(fail)
    with pytest.warns(ajit.AjitWarning, match="a context was not closed.*inside"):
        await own._ended.wait()

    with pytest.raises(ExceptionGroup):
        await own.aclose()
    await own.aclose()


async def test_cancellation_of_the_task_itself_leaves_the_context(context, anyio_backend_name):
    """As at the end of `asyncio.run`, which cancels every task."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no second kind of cancellation")
    await open_context(context)

    with pytest.warns(ajit.AjitWarning, match="a context was not closed"):
        await _cancel("a context")

    assert context.steps == ["entered", "left"]


@pytest.mark.parametrize("times", [1, 3])
async def test_cancellation_of_the_task_while_it_leaves_changes_nothing(
    context, anyio_backend_name, times
):
    """The step that was interrupted is done again."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no second kind of cancellation")
    context.may_leave = anyio.Event()
    own = await open_context(context)
    async with anyio.create_task_group() as group:
        group.start_soon(own.aclose)
        await context.leaving.wait()
        for _ in range(times):
            await _cancel("a context", wait=False)
            await anyio.lowlevel.checkpoint()
        assert context.steps == ["entered"]
        context.may_leave.set()

    assert context.steps == ["entered", "left"]


async def test_task_that_is_cancelled_before_it_begins_is_no_hang(context, anyio_backend_name):
    """The loop ended in that very moment: who opens is told."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio begins every task that was started")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opening = asyncio.ensure_future(open_context(context))
        await asyncio.sleep(0)
        await _cancel("a context")
        with pytest.raises(ajit.RuntimeClosed, match="event loop ended"):
            await opening

    assert context.steps == []


async def _cancel(name, *, wait=True):
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == name]
    assert len(tasks) == 1
    tasks[0].cancel()
    if wait:
        await asyncio.wait(tasks)
