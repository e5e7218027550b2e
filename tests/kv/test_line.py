"""The line of requests: who is next, and who has to wait."""

from __future__ import annotations

import anyio
import pytest

from ajit.kv.line import COMMIT, FIND, MOST_CALLS, MOST_DIGESTS, MOST_PASSED, RESERVE, Line


def order(line: Line) -> list[object]:
    """What is done until nothing is in line."""
    done = []
    while (call := line.next_call()) is not None:
        done.append(call())
    return done


def put(line: Line, turn: int, client: int, *names: object, digests: int = 1) -> None:
    """Queue calls that give their names."""
    for name in names:
        line.put(turn, client, digests, lambda name=name: name)


def test_loads_come_first_and_stores_last():
    """Of what is in line together."""
    line = Line()
    put(line, RESERVE, 1, "reserve")
    put(line, COMMIT, 2, "commit")
    put(line, FIND, 3, "find")

    assert order(line) == ["find", "commit", "reserve"]
    assert len(line) == 0


def test_clients_take_turns_whatever_each_has_in_line():
    """One request waits for one of each other client, and not for all of them."""
    line = Line()
    put(line, FIND, 1, *["flood"] * 30)
    put(line, FIND, 2, *["other flood"] * 30)
    put(line, FIND, 3, "mine")

    assert order(line).index("mine") == 2


def test_a_flood_of_lookups_keeps_none_from_storing():
    """Who has been passed by often enough is next; commits as well, though stores come after."""
    line = Line()
    put(line, FIND, 1, *["find"] * 60)
    put(line, COMMIT, 2, "commit")
    put(line, RESERVE, 3, "reserve")
    done = order(line)

    assert done.index("reserve") == MOST_PASSED
    assert done.index("commit") == MOST_PASSED + 1


@pytest.mark.anyio
@pytest.mark.parametrize(("calls", "digests"), [(MOST_CALLS, 1), (1, MOST_DIGESTS)])
async def test_a_client_with_enough_in_line_waits_and_others_do_not(calls, digests):
    """Until one of its own is done."""
    line = Line()
    put(line, FIND, 1, *range(calls), digests=digests)
    with anyio.move_on_after(0) as waited:
        await line.wait_for_room(1)
    await line.wait_for_room(2)
    async with anyio.create_task_group() as group:
        group.start_soon(line.wait_for_room, 1)
        await anyio.wait_all_tasks_blocked()
        line.next_call()

    assert waited.cancelled_caught


@pytest.mark.anyio
async def test_what_a_client_that_has_gone_had_in_line_is_dropped():
    """And who waits for room for it waits no more."""
    line = Line()
    put(line, FIND, 1, *range(MOST_CALLS))
    put(line, RESERVE, 1, "mine")
    put(line, FIND, 2, "other")
    async with anyio.create_task_group() as group:
        group.start_soon(line.wait_for_room, 1)
        await anyio.wait_all_tasks_blocked()
        line.forget(1)

    assert order(line) == ["other"]
    assert len(line) == 0
