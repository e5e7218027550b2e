"""What the model of claims is made of: server, mounts that see it late, processes, rules.

Time goes by in ticks. In each one a holder that lives beats, and one that waits looks. A mount
shows of each fact (a claim with its record, the entry) what was so at most ``delay`` ticks ago: a
new directory is not seen yet, a record is an old one, each by itself.
"""

from __future__ import annotations

from typing import NamedTuple

from ajit._core.claim import Action, Limits, Mark, Seen, State, Watch

BEATS = 5
"""Beats are told modulo this: between two looks of one that is not stalled there are fewer."""


class Violation(AssertionError):
    """A promise does not hold."""


class Rules(NamedTuple):
    """What a performer does about claims, and what its file system does. A test breaks one of them.

    Attributes:
        delay: In how many ticks a write is seen on every mount.
        limits: Of the claims, in ticks.
        exclusive: Whether ``mkdir`` has one winner.
        beats: Whether a holder beats while it compiles.
        seeks: Whether what was published is looked for before a claim is followed.
        marks: Whether a holder marks its claim as left.
        marks_newest: Whether it marks the newest claim, and not its own.
        makes_anew: Whether a silent claim is renamed away and one of the same number is made, in
            two steps.
        removes: Whether a holder that leaves removes its claim, so that its number is made again.
    """

    delay: int = 1
    limits: Limits = Limits(silence_seconds=3, settle_seconds=2)
    exclusive: bool = True
    beats: bool = True
    seeks: bool = True
    marks: bool = True
    marks_newest: bool = False
    makes_anew: bool = False
    removes: bool = False


class Process(NamedTuple):
    """One process that wants the lease, to compile if nothing is published.

    Attributes:
        mount: Where it works.
        state: Of its claim.
        todo: What it has to do.
        watch: What it knows.
        number: The claim that it made.
        beat: Its last beat.
        phase: Of a holder: ``looks``, ``compiles``, ``publishes`` or ``leaves``.
        published: Whether it has.
        busy: Whether it has looked, or beaten, in this tick.
        life: ``live``; ``stalled``; ``late``, which is a holder that was stalled and goes on;
            ``crashed``; or ``served``.
    """

    mount: int
    state: State = State.WATCHING
    todo: tuple[Action, ...] = ()
    watch: Watch = Watch()
    number: int = 0
    beat: int = 0
    phase: str = ""
    published: bool = False
    busy: bool = False
    life: str = "live"

    @property
    def moves(self) -> bool:
        """Whether it does anything any more."""
        return self.life in ("live", "late")

    @property
    def holds(self) -> bool:
        """Whether it has the lease and lives up to it."""
        return self.life == "live" and self.state is State.HOLDING

    def sees_no_wrap(self, other: Process) -> Process:
        """The same, if another just wrote the beat that this one saw before it was stalled."""
        seen = self.watch.seen
        if seen == Seen(other.number, Mark.HELD, other.beat):
            return self._replace(watch=self.watch._replace(seen=seen._replace(beat=-1)))
        return self

    @property
    def may_see_time_pass(self) -> bool:
        """Whether a tick may end now: what takes no time is done, a look and a beat are made."""
        if self.life != "live":
            return True  # one that is late does nothing in time
        if self.todo:
            return False
        return self.busy and (self.state is not State.HOLDING or self.phase == "compiles")


class View(NamedTuple):
    """What a mount shows.

    Attributes:
        claims: Of each claim that exists: as it shows it; None for not at all.
        entry: Whether it shows the entry.
        lags: Of each claim, and of the entry: in how many ticks it has not shown what is so.
    """

    claims: tuple[Seen | None, ...] = ()
    entry: bool = False
    lags: tuple[int, ...] = (0,)

    def newest(self) -> Seen:
        """What a look sees."""
        return next((seen for seen in reversed(self.claims) if seen is not None), Seen())


class Server(NamedTuple):
    """What is so.

    Attributes:
        claims: Every claim.
        entry: Whether there is an entry.
        views: What each mount shows.
    """

    claims: tuple[Seen | None, ...] = ()
    entry: bool = False
    views: tuple[View, ...] = ()

    def made(self, number: int, mount: int) -> Server:
        """After ``mkdir`` of the next number, or of one that was removed."""
        claims = (*self.claims, None) if number > len(self.claims) else self.claims
        views = [
            view._replace(claims=(*view.claims, None), lags=(*view.lags[:-1], 0, view.lags[-1]))
            if number > len(view.claims)
            else view
            for view in self.views
        ]
        server = self._replace(claims=claims, views=tuple(views))
        return server.wrote(number, Seen(number, Mark.UNWRITTEN), mount)

    def wrote(self, number: int, seen: Seen | None, mount: int) -> Server:
        """After a claim was made, written or removed on a mount, which shows it at once."""
        claims = list(self.claims)
        claims[number - 1] = seen
        return self._replace(claims=tuple(claims)).shows(mount, number - 1)

    def has_entry(self, mount: int) -> Server:
        """After the entry was published on a mount."""
        return self._replace(entry=True).shows(mount, len(self.claims))

    def shows(self, mount: int, fact: int) -> Server:
        """After a mount has learned how a fact is."""
        view = self.views[mount]
        lags = tuple(0 if number == fact else lag for number, lag in enumerate(view.lags))
        if fact == len(self.claims):
            view = view._replace(entry=self.entry, lags=lags)
        else:
            claims = list(view.claims)
            claims[fact] = self.claims[fact]
            view = view._replace(claims=tuple(claims), lags=lags)
        views = (*self.views[:mount], view, *self.views[mount + 1 :])
        return self._replace(views=views)

    def without_what_makes_no_difference(self, mounts: set[int]) -> Server:
        """The same, but shown at once: claims below one that is shown, and all to the dead."""
        server = self
        for mount, view in enumerate(self.views):
            newest = view.newest().number
            for fact in server.late_facts(mount):
                if mount not in mounts or fact < newest - 1:
                    server = server.shows(mount, fact)
        return server

    def name(self, fact: int) -> str:
        """What a fact is about."""
        return "the entry" if fact == len(self.claims) else f"claim {fact + 1}"

    def late_facts(self, mount: int) -> tuple[int, ...]:
        """What a mount does not show as it is."""
        view = self.views[mount]
        late = [
            fact
            for fact, (is_so, shown) in enumerate(zip(self.claims, view.claims, strict=True))
            if is_so != shown
        ]
        return (*late, len(self.claims)) if view.entry != self.entry else tuple(late)

    def ticked(self, delay: int) -> Server | None:
        """A tick later; None if a mount must first learn something."""
        views = []
        for mount, view in enumerate(self.views):
            late = self.late_facts(mount)
            if any(view.lags[fact] >= delay for fact in late):
                return None
            lags = tuple(lag + 1 if fact in late else 0 for fact, lag in enumerate(view.lags))
            views.append(view._replace(lags=lags))
        return self._replace(views=tuple(views))


class Move(NamedTuple):
    """One atomic step of one process."""

    label: str
    after: Process
    server: Server
    fair: bool = True
    compiled: bool = False
