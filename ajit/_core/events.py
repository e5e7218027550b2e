"""Events: what ajit says it does.

Every step of a resolution is one frozen dataclass with the facts of that step. Logs, metrics,
progress bars and ``waited_for`` are all made from these. A runtime emits them to its subscribers,
in its own event loop; with no subscriber, none is even built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ajit._core.short_repr import short_repr

__all__ = [
    "BundleReady",
    "CacheResponsive",
    "CacheUnresponsive",
    "CacheUnwritable",
    "CompileFailed",
    "CompileFinished",
    "CompileStarted",
    "CompiledLate",
    "Differences",
    "Emitter",
    "EntryRejected",
    "Event",
    "FallbackUsed",
    "Holder",
    "KernelReady",
    "LocksUnavailable",
    "MakingKey",
    "NotPublished",
    "Subscriber",
    "Tier",
    "WaitEnded",
    "Waiting",
    "WaitingForPermit",
    "WarmupProgress",
]

Tier = Literal["memory", "disk", "remote", "compiled"]

Differences: TypeAlias = "tuple[tuple[str, str | None, str | None], ...]"
"""In what two keys differ: the part, its value in the cached one, and its value in the wanted one;
None where it does not have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The holder of a key's lease.

    Attributes:
        host: Host name.
        pid: Process id on that host.
        phase: ``queued``, ``compiling`` or ``publishing``.
        compiler: Compiler and version.
        age_seconds: Since it took the lease; only to its last beat if it is on another host.
        cpu_seconds: CPU time that its compiler had used at the last beat: while that grows, the
            compile makes progress.
    """

    host: str
    pid: int
    phase: str
    compiler: str
    age_seconds: float
    cpu_seconds: float = 0.0

    def __str__(self) -> str:
        """One line: ``pid 7 on node3, compiling with nvcc 13.0 for 2.0 s (1.9 s CPU)``."""
        used = f" ({self.cpu_seconds:.1f} s CPU)" if self.cpu_seconds else ""
        return (
            f"pid {self.pid} on {self.host}, {self.phase} with {self.compiler} "
            f"for {self.age_seconds:.1f} s{used}"
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Event:
    """Base: which spec and key an event is about.

    Attributes:
        name: The spec's label.
        key: Hex base key: of everything but what the compile reads. All events of a kernel have it.
    """

    name: str
    key: str

    def __repr__(self) -> str:
        return short_repr(self)


Subscriber: TypeAlias = Callable[[Event], None]
"""Called in the runtime's event loop, between two steps of a resolution: it must not block."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EntryRejected(Event):
    """An entry on disk did not verify; it counts as a miss and is replaced."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LocksUnavailable(Event):
    """The cache's file system has no locks; the compile goes on without a lease."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Waiting(Event):
    """Another process holds the lease. Emitted when the wait begins and then at intervals.

    About every second; less often if a hundred or more wait, or the disk is slow.
    """

    holder: Holder | None
    waited_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WaitEnded(Event):
    """A wait is over.

    Attributes:
        outcome: ``entry`` (the holder published), ``failure`` (the source was rejected, and the
            holder's error is ours), ``lease`` (it is ours now), ``patience`` (the holder was
            silent for too long, so we compile for ourselves).
    """

    holder: Holder | None
    waited_seconds: float
    outcome: Literal["entry", "failure", "lease", "patience"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class MakingKey(Event):
    """The key of a request has been in the making for half a second or more; ``key`` is empty.

    Emitted after half a second, and about every second from then on.

    Attributes:
        doing: ``compiler``: the compiler is looked for and asked for its version. ``files``: the
            cache is looked at, and headers are digested.
        waited_seconds: Since the request.
    """

    doing: Literal["compiler", "files"]
    waited_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CompileStarted(Event):
    """A compile was handed to the compile pool.

    Attributes:
        nearest: With the setting ``explain``, the key of the cached kernel that differs least; else
            or if none is like it, "".
        differences: In what they differ.
    """

    compiler: str
    arch: str
    nearest: str = ""
    differences: Differences = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CompiledLate(Event):
    """A kernel is compiled although the runtime was frozen (`Runtime.freeze`): it was not warm.

    Attributes:
        peer: Whose kernel it is; "" is ajit's own.
        nearest: Key of the cached kernel that differs least, or "" if none is like it.
        differences: In what they differ.
        stack: Where it was asked for, outermost first: ``file:line in function``.
    """

    peer: str = ""
    nearest: str = ""
    differences: Differences = ()
    stack: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CompileFinished(Event):
    """A compile succeeded."""

    compiler: str
    arch: str
    seconds: float
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CompileFailed(Event):
    """A compile failed; every waiter of this process gets the error."""

    error: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CacheUnwritable(Event):
    """An artifact could not be published; the kernel is still returned."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CacheUnresponsive(Event):
    """The cache's file system does not answer: kernels are compiled without it until it does.

    Not about one kernel: ``name`` and ``key`` are empty.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CacheResponsive(Event):
    """The cache's file system answers again, and is used again.

    Not about one kernel: ``name`` and ``key`` are empty.

    Attributes:
        seconds: Since when it was reported not to answer.
    """

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WaitingForPermit(Event):
    """A compile waits for a permit of this machine (the setting ``node_compile_slots``).

    Emitted about every second of the wait.

    Attributes:
        holder: One of the processes that have a permit, if it is known.
        waited_seconds: Since the compile was queued.
    """

    holder: Holder | None
    waited_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NotPublished(Event):
    """An artifact is used and not put into the cache: it is not certain what the compiler read.

    Attributes:
        reason: A file that changed while the compiler worked, or why its reads cannot be seen.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FallbackUsed(Event):
    """A request was answered with its fallback; the wanted kernel is made ready meanwhile.

    Attributes:
        fallback: Label of the spec that stands in.
    """

    fallback: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KernelReady(Event):
    """A request was answered from another tier than memory.

    Attributes:
        entry_key: The artifact's key, whose first 16 digits are those of the base key.
    """

    entry_key: str
    tier: Tier
    seconds: float
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BundleReady(Event):
    """A request for a build was answered.

    Attributes:
        entry_key: The bundle's key, whose first 16 digits are those of the base key.
    """

    entry_key: str
    tier: Tier
    seconds: float
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WarmupProgress(Event):
    """One spec of a warm-up is done.

    Attributes:
        done: Specs finished so far, this one included; failed ones count.
        total: Specs of this warm-up.
        error: Empty, or what went wrong with this one.
    """

    done: int
    total: int
    tier: Tier | None
    error: str = ""


class Emitter:
    """The subscribers of one runtime. It belongs to the runtime's event loop.

    Callers check `listening` first, so that no event is built without a subscriber.
    """

    __slots__ = ("_on_error", "_subscribers")

    def __init__(self, on_error: Callable[[Subscriber, Exception], None]) -> None:
        self._subscribers: dict[object, Subscriber] = {}
        self._on_error = on_error

    @property
    def listening(self) -> bool:
        """Whether there is a subscriber."""
        return bool(self._subscribers)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Add a subscriber; the returned function removes it."""
        subscription = object()  # one function may subscribe twice, and leave once
        self._subscribers[subscription] = subscriber

        def unsubscribe() -> None:
            self._subscribers.pop(subscription, None)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Hand an event to every subscriber, in order of subscription.

        A subscriber that raises is reported and does not disturb what it watches.
        """
        for subscriber in tuple(self._subscribers.values()):  # they may leave meanwhile
            try:
                subscriber(event)
            except Exception as exc:  # noqa: BLE001  # a broken log line must not fail a kernel
                self._on_error(subscriber, exc)
