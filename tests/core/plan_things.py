"""What the model of the plan is made of: header and cache, process, move, and who performs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ajit._core.plan import State

if TYPE_CHECKING:
    from ajit._core.plan import Action, Plan

NONE, GOOD, BAD = "none", "good", "bad"
WRONG = "wrong"
"""It verifies, and was compiled from another header than its key is made of. Only a fault does."""

SAYINGS = (0, 1)
"""What the header can say."""


class Violation(AssertionError):
    """A promise of the plan does not hold."""


class Failure(NamedTuple):
    """A failure record.

    Attributes:
        states: What the header says, by the record.
        made_with: What it said when it was compiled.
    """

    states: int
    made_with: int


class Disk(NamedTuple):
    """The header, and the cache's content for the base key.

    Attributes:
        header: What it says today.
        edits: How many times it may still be edited.
        entries: By what the header says in their keys: ``none``, ``good``, ``bad`` or ``wrong``.
        lists: Likewise, whether the reading list is there that leads to the entry.
        one_list: Whether it is one list for all; else the header decides what else is read.
        failure: The failure record.
    """

    header: int = 0
    edits: int = 0
    entries: tuple[str, ...] = (NONE, NONE)
    lists: tuple[bool, ...] = (False, False)
    one_list: bool = False
    failure: Failure | None = None

    def with_entry(self, says: int, entry: str) -> Disk:
        """The same, with another entry."""
        return self._replace(
            entries=tuple(entry if n == says else e for n, e in enumerate(self.entries))
        )

    def with_list(self, says: int, there: bool) -> Disk:  # noqa: FBT001  # a fact of the disk
        """The same, with or without a list."""
        changed = (there if self.one_list or n == says else old for n, old in enumerate(self.lists))
        return self._replace(lists=tuple(changed))

    def __str__(self) -> str:
        entries = (
            f"{entry}{'' if listed else ' without list'}"
            for entry, listed in zip(self.entries, self.lists, strict=True)
        )
        record = f", {self.failure}" if self.failure else ""
        return f"header {self.header}, entries {' and '.join(entries)}{record}"


class Process(NamedTuple):
    """One process that resolves the base key.

    Attributes:
        plan: Where its plan stands.
        todo: Actions that it has still to do.
        life: ``live``, ``crashed``, or ``stalled``: alive, holding what it holds, but never moving.
        holds: Whether it holds the lock.
        helper: Of its wait: ``waiting``, ``won`` (not told yet), ``left`` (its waiter has left), or
            ``late`` (won after its waiter had left).
        looked: In a look of two steps: what the header said in the first one.
        listed: Likewise: whether there was a list.
        during: Likewise: what the header has said since then; empty when the look has ended.
        edited: Whether the header was edited since the last look began.
        read: What the header said when the compiler read it.
        changed: Whether it was written since then.
        key: What it says in the key of the artifact.
        put: How many of the two steps of publishing are done.
        verified: Whether it has read an entry that verified.
        compiled: Whether it has compiled, and has its own bytes.
        confirmed: Whether it has looked since then, and the entry did not verify.
        kept: After its end, what the header says in the key of the kernel that it got or published.
    """

    plan: Plan
    todo: tuple[Action, ...]
    life: str = "live"
    holds: bool = False
    helper: str = ""
    looked: int | None = None
    listed: bool = False
    during: tuple[int, ...] = ()
    edited: bool = False
    read: int | None = None
    changed: bool = False
    key: int | None = None
    put: int = 0
    verified: bool = False
    compiled: bool = False
    confirmed: bool = False
    kept: int | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more is expected of its plan."""
        return self.life != "live" or (self.plan.ended and not self.todo)

    def sees_edit(self, header: int) -> Process:
        """The same, after the header was edited."""
        if self.life != "live":
            return self
        during = tuple(sorted({*self.during, header})) if self.during else ()
        begun = bool(during) or self.plan.state not in (State.LOOKING, State.DONE, State.FAILED)
        changed = self.changed or (self.plan.state is State.COMPILING and self.read is not None)
        return self._replace(during=during, edited=begun, changed=changed)


class Move(NamedTuple):
    """One atomic step of one process.

    Attributes:
        settles: Of a compile that ends with a result for all, and had no edit since its look: what
            the header says in its key.
        overwrites: Whether it puts a good entry over a good one.
    """

    label: str
    after: Process
    disk: Disk
    fair: bool = True
    excuses: bool = False
    spoils: bool = False
    settles: int | None = None
    overwrites: bool = False


class Performer:
    """What a performer decides about the header. A test that breaks one gives it another method."""

    publishes = ("entry", "list")
    """The steps of publishing, in order."""

    def seeks(self, process: Process, disk: Disk) -> int | None:
        """What the header says in the key of the entry to be read; None if no list leads to one."""
        del disk
        return process.looked if process.listed else None

    def believes(self, disk: Disk) -> bool:
        """Whether the failure record is one of today's header."""
        return disk.failure is not None and disk.failure.states == disk.header

    def digests_before(self, disk: Disk) -> int | None:
        """What is taken for the header's content before the compile: nothing."""
        del disk

    def digests_after(self, process: Process, disk: Disk) -> int:
        """What is taken for it after the compile."""
        del process
        return disk.header

    def is_sure(self, process: Process, disk: Disk) -> bool:
        """Whether what was digested is certain to be what the compiler read."""
        del disk
        return not process.changed

    def is_sure_of_failure(self, process: Process, disk: Disk) -> bool:
        """The same, for a source that was rejected."""
        return self.is_sure(process, disk)

    def links_twice(self) -> bool:
        """Whether ``link`` may have two winners, as between two mounts of a network file system."""
        return False

    def lists_what_is_there(self) -> bool:
        """Whether it puts the list although the entry was there."""
        return True


performer = Performer()
