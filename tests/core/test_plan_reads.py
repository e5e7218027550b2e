"""No stale kernel comes from the cache, whenever a header is edited and a process dies.

Processes resolve one base key while an adversary edits the header that their source includes, at
any moment and back again (`plan_worlds`), and does all that it does in ``test_plan_enumeration.py``
besides. Then each part of the protocol is broken that keeps header, key and kernel together: the
plan's parts in its table, the performer's in `plan_things.Performer`.
"""

from __future__ import annotations

import sys

import pytest

from ajit._core import plan
from ajit._core.plan import Action, Happening, State
from tests.core.plan_check import broken, check, found_broken
from tests.core.plan_things import BAD, GOOD, NONE, performer
from tests.core.plan_worlds import ORPHAN, Exploration

pytestmark = pytest.mark.usefixtures("fresh_moves")

STALE = "stale entry"
FALSE_FAILURE = "failure of another header"
TWICE = "compiled twice"
NOT_KEPT = "not kept"


def performs(monkeypatch, **methods) -> None:
    """Let the performer of the model do something in another way."""
    for name, method in methods.items():
        monkeypatch.setattr(performer, name, method)


def never(_process, _disk) -> bool:
    """Keeps failure records out of a story."""
    return False


def told(exploration: Exploration, capsys) -> None:
    """Say how much was visited."""
    with capsys.disabled():
        sys.stdout.write(
            f"\n  plan: {exploration.count} processes, {exploration.start} entry at first, "
            f"{exploration.edits} edits: {len(exploration.origins):,} states\n"
        )


@pytest.mark.parametrize("one_list", [False, True], ids=["lists apart", "one list"])
@pytest.mark.parametrize(
    "disk", [NONE, *(pytest.param(disk, marks=pytest.mark.slow) for disk in (BAD, GOOD, ORPHAN))]
)
def test_header_may_be_edited_and_put_back_at_any_time(disk, one_list, capsys):
    """Every promise, in every order: also if the header is again what it was before."""
    exploration = Exploration(disk, 2, edits=2, one_list=one_list)

    check(exploration)
    told(exploration, capsys)
    assert len(exploration.origins) > 30_000


@pytest.mark.parametrize("disk", [NONE, ORPHAN, pytest.param(BAD, marks=pytest.mark.slow)])
def test_lists_may_be_removed_while_a_header_is_edited(disk, capsys):
    """An entry whose list was removed is a miss, and the next to compile it puts the list again."""
    exploration = Exploration(disk, 2, edits=1, lists_go=True)

    check(exploration)
    told(exploration, capsys)
    assert len(exploration.origins) > 30_000


@pytest.mark.slow  # more than a million states
@pytest.mark.timeout(900)
@pytest.mark.parametrize("disk", [NONE])
def test_header_is_edited_while_three_processes_want_it(disk, capsys):
    """The same for three of them."""
    exploration = Exploration(disk, 3, edits=1)

    check(exploration)
    told(exploration, capsys)
    assert len(exploration.origins) > 100_000


def test_model_reaches_what_edits_are_for():
    """Each thing that the header's edits can do to a process happens in some world."""
    exploration = Exploration(NONE, 2, edits=2)
    exploration.run()
    worlds = list(exploration.origins)
    processes = {process for world in worlds for process in exploration.processes(world)}

    assert {len(process.during) for process in processes} == {0, 1, 2}
    assert any(process.changed for process in processes)
    assert {process.kept for process in processes} == {None, 0, 1}
    assert any(world.disk.entries == (GOOD, GOOD) for world in worlds)
    assert {world.disk.failure for world in worlds} == {None, (0, 0), (1, 1)}
    assert any(GOOD in world.disk.entries and not any(world.disk.lists) for world in worlds)
    # Of two processes that did all right, each may have the kernel of another header.
    assert any(
        {process.kept for process in exploration.processes(world)} == {0, 1}
        for world in worlds
        if not world.excused
    )


# --- broken on purpose: what is published ---


def test_result_of_a_compile_that_a_change_fell_into_must_not_be_published(monkeypatch):
    """Rule 7: it lies under what the header says now, and was made of what it said before."""
    broken(monkeypatch, Happening.COMPILED_UNSHARED, plan._go(State.PUBLISHING, Action.PUBLISH))
    found_broken(STALE, edits=2)


def test_digesting_after_the_compile_without_a_check_gives_a_stale_entry(monkeypatch):
    """The header is saved between being read and being digested."""
    performs(monkeypatch, is_sure=lambda _process, _disk: True, is_sure_of_failure=never)
    found_broken(STALE, edits=2)


def test_digesting_before_the_compile_gives_a_stale_entry(monkeypatch):
    """The header is saved between being digested and being read, as with keys made by a scanner."""
    performs(
        monkeypatch,
        digests_before=lambda disk: disk.header,
        digests_after=lambda process, _disk: process.key,
        is_sure_of_failure=never,
    )
    found_broken(STALE, edits=2)


def test_equal_digests_before_and_after_are_not_enough(monkeypatch):
    """The header is saved before it is read and put back after it: only its ctime tells."""
    performs(
        monkeypatch,
        digests_before=lambda disk: disk.header,
        is_sure=lambda process, disk: process.key == disk.header,
        is_sure_of_failure=never,
    )
    found_broken(STALE, edits=2)


# --- broken on purpose: what is looked up ---


def test_entry_of_another_header_must_not_be_taken(monkeypatch):
    """A list says that the header was read, and not what it said."""

    def any_that_is_listed(_process, disk):
        return next((n for n in (0, 1) if disk.lists[n] and disk.entries[n] != NONE), None)

    performs(monkeypatch, seeks=any_that_is_listed)
    found_broken(STALE, edits=1)


def test_failure_of_another_header_must_not_be_believed(monkeypatch):
    """A record without what was read keeps failing after the header was mended."""
    performs(monkeypatch, believes=lambda disk: disk.failure is not None)
    found_broken(FALSE_FAILURE, edits=1)


def test_failure_of_a_compile_that_a_change_fell_into_must_not_be_recorded(monkeypatch):
    """The header was half saved when it was read: by now it is whole, and the record a lie."""
    performs(monkeypatch, is_sure_of_failure=lambda _process, _disk: True)
    found_broken(FALSE_FAILURE, edits=1)


# --- broken on purpose: entry and list ---


def test_entry_without_its_list_is_compiled_again(monkeypatch):
    """Rule 7: nothing leads to it."""
    performs(monkeypatch, publishes=("entry",))
    found_broken(f"{TWICE}|{NOT_KEPT}")


def test_list_without_its_entry_is_compiled_again(monkeypatch):
    """Rule 7: it leads to nothing."""
    performs(monkeypatch, publishes=("list",))
    found_broken(f"{TWICE}|{NOT_KEPT}")


def test_entry_that_is_there_already_needs_its_list_all_the_same(monkeypatch):
    """Rule 7: its publisher died before it put the list; create-only, it would never get one."""
    performs(monkeypatch, lists_what_is_there=lambda: False)
    found_broken(f"{TWICE}|{NOT_KEPT}", disk=ORPHAN)


def test_good_entry_that_came_meanwhile_needs_its_list_all_the_same(monkeypatch):
    """Rules 3 and 7: the bad entry was of another header, and of this one there is an orphan."""
    end = plan._end(Action.RETURN_COMPILED)
    broken(monkeypatch, Happening.FOUND, end, State.CONFIRMING)
    found_broken(NOT_KEPT, disk=BAD, edits=1)


@pytest.mark.parametrize("disk", [NONE, ORPHAN])
def test_list_before_the_entry_would_do_no_harm(monkeypatch, disk):
    """Which of them comes first is a matter of cost: a list that leads nowhere is looked up."""
    performs(monkeypatch, publishes=("list", "entry"))

    check(Exploration(disk, 2, edits=1, lists_go=True))
