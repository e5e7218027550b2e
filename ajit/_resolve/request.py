"""A request for one base key: what it asks for, how urgent it is, and its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ajit._core.build import Build
from ajit._core.short_repr import short_repr

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit._compile.toolchains.identity import Toolchain
    from ajit._core import events
    from ajit._core.entry import Artifact
    from ajit._core.job import CompilerName
    from ajit._core.spec import Spec
    from ajit._resolve.budget import Budget
    from ajit._resolve.in_place import Made
    from ajit._resolve.lookup import Look, Wanted
    from ajit._resolve.services import Services
    from ajit._system.priority_line import Priority

__all__ = ["Request", "Resolution", "Urgency", "WaitedFor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitedFor:
    """The process that a resolution waited for, and for how long.

    Attributes:
        host: Host name of the lease's holder.
        pid: Its process id.
        seconds: Time spent waiting.
    """

    host: str
    pid: int
    seconds: float

    def __repr__(self) -> str:
        return f"WaitedFor(host={self.host!r}, pid={self.pid}, seconds={self.seconds:.1f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The answer to a spec.

    Attributes:
        artifact: Verified bytes with their metadata.
        tier: Where they came from.
        seconds: From the request to the answer.
        waited_for: The holder that was waited for, if any.
    """

    artifact: Artifact
    tier: events.Tier
    seconds: float
    waited_for: WaitedFor | None = None

    def __repr__(self) -> str:
        return short_repr(self)


@dataclass(slots=True)
class Urgency:
    """Whether a request waits for a resolution, or only a warm-up. Belongs to the event loop.

    Attributes:
        foreground: Whether a request waits for it.
        key: Its hex base key, once that is known and the disk does not have it.
        on_wait: Called, in the event loop, when it begins to wait for another compile.
        ahead: The urgency of the work that it waits for, if that was begun before.
        stack: Where it was asked for, if that may be of interest, see `ajit._resolve.late`.
    """

    foreground: bool = True
    key: str = ""
    on_wait: Callable[[], None] = lambda: None
    ahead: Urgency | None = None
    stack: tuple[str, ...] = ()

    @property
    def priority(self) -> Priority:
        """The same as a priority, as lines and pools have it."""
        return "foreground" if self.foreground else "background"

    @property
    def known_key(self) -> str:
        """The key, from this work or from the work that it waits for; empty if not known."""
        return self.key or (self.ahead.known_key if self.ahead is not None else "")

    def hurry(self, services: Services) -> None:
        """Promote it, and the work that it waits for: a request waits for it now."""
        if not self.foreground:
            self.foreground = True
            if self.key:
                services.hurry(self.key)
            if self.ahead is not None:
                self.ahead.hurry(services)

    def follow(self, ahead: Urgency, services: Services) -> None:
        """Note that it waits for work that was begun before; that is then at least as urgent."""
        self.ahead = ahead
        self.on_wait()
        if self.foreground:
            ahead.hurry(services)


@dataclass(frozen=True, slots=True)
class Request:
    """A spec, or a build, joined with what this machine has.

    Attributes:
        spec: What is asked for.
        compiler: ``build`` for a build, whose toolchain is none.
        budget: What it may still wait for calls on the cache that are not answered.
        first_look: What the disk had when the base key was made; None if that was long ago.
        looked: Whether it has looked before, long ago.
        recache: Whether to compile again what is cached, a failure included, and to replace it.
        perform: Of a build that its caller makes itself: waits for that, see `InPlace`.
    """

    spec: Spec | Build
    wanted: Wanted
    compiler: CompilerName
    arch: str
    toolchain: Toolchain
    budget: Budget
    first_look: Look | None = None
    looked: bool = False
    recache: bool = False
    urgency: Urgency = field(default_factory=Urgency)
    perform: Callable[[], Awaitable[Made]] | None = None

    @property
    def for_bundle(self) -> bool:
        """Whether its answer is a bundle."""
        return self.compiler == "build"

    @property
    def entry(self) -> str:
        """The kernel's entry points, as events have them."""
        return "" if isinstance(self.spec, Build) else ", ".join(self.spec.entry_names)
