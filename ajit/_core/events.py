"""Events: what ajit says it does.

Every step of a resolution is one frozen dataclass with the facts of that step. Logs, metrics,
progress bars and ``waited_for`` are all made from these. A runtime emits them to its subscribers,
in its own event loop; with no subscriber, none is even built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ajit._core.event import Emitter, Event, Holder, Subscriber

__all__ = [
    "BackgroundFailed",
    "BundleReady",
    "CacheResponsive",
    "CacheUnresponsive",
    "CacheUnwritable",
    "CompileCancelled",
    "CompileFailed",
    "CompileFinished",
    "CompileRunning",
    "CompileStarted",
    "CompiledLate",
    "DeviceLost",
    "DeviceResumed",
    "DeviceStalled",
    "Differences",
    "Emitter",
    "EntriesEvicted",
    "EntryRead",
    "EntryRejected",
    "Event",
    "FallbackUsed",
    "Holder",
    "KernelReady",
    "KeyMade",
    "LocksUnavailable",
    "MakingKey",
    "ModuleLoaded",
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
        reason: Why it was not found: no such kernel was kept, files have changed, its entry does
            not verify, ...
        nearest: With the setting ``explain``, the key of the cached kernel that differs least; else
            or if none is like it, "".
        differences: In what they differ.
    """

    compiler: str
    arch: str
    reason: str = ""
    nearest: str = ""
    differences: Differences = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CompileRunning(Event):
    """A compile of this process goes on. Emitted about once a second.

    Attributes:
        seconds: Since it was handed to the pool.
        cpu_seconds: CPU time that the compiler has used: while that grows, it makes progress.
    """

    compiler: str
    arch: str
    seconds: float
    cpu_seconds: float


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
    """A compile succeeded.

    Attributes:
        seconds: What the compiler took.
        queued_seconds: How long it waited before, for a slot of this process, memory, or a permit.
        size_bytes: Of what it made.
    """

    compiler: str
    arch: str
    seconds: float
    size_bytes: int
    queued_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CompileFailed(Event):
    """A compile failed; every waiter of this process gets the error.

    Attributes:
        error: What went wrong, with the compiler's log.
        seconds: What it took.
        error_type: The name of the error's class.
    """

    error: str
    seconds: float
    error_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CompileCancelled(Event):
    """A compile was ended, because no task waits for it any more, or the runtime closes.

    Attributes:
        seconds: Since it was begun.
    """

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
class EntriesEvicted(Event):
    """This process has removed files of the cache, because of its limits or of their age.

    Not about one kernel: ``name`` and ``key`` are empty.

    Attributes:
        entries: Entries removed.
        others: Reading lists, digests, failure records, temporary files and permits removed.
        size_bytes: Of all of them.
        kept_entries: Entries that are left.
        kept_bytes: Their size, with reading lists and digests.
        limit_bytes: What the cache may hold; 0 is any number.
    """

    entries: int
    others: int
    size_bytes: int
    kept_entries: int
    kept_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BackgroundFailed(Event):
    """Calls on the cache failed where no request gets the error. Kernels are found all the same.

    The first of its kind; the others are counted in ``statistics().background_errors``. Not about
    one kernel: ``name`` and ``key`` are empty.

    Attributes:
        doing: ``evict``; ``touch``: to mark as used; ``board``: to tell other processes; or
            ``history``: to note compiles.
    """

    doing: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KeyMade(Event):
    """The base key of a request was made: its compiler was found, and its text digested.

    Attributes:
        seconds: What that took, in its thread.
    """

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EntryRead(Event):
    """An entry was read and verified, and the files were looked at that it depends on.

    Attributes:
        entry_key: The artifact's key.
        seconds: What that took, in its thread.
        size_bytes: Of the artifact.
    """

    entry_key: str
    seconds: float
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ModuleLoaded(Event):
    """A module was loaded on the device, by the CUDA thread.

    Attributes:
        entry_key: The artifact's key.
        seconds: From the request for it.
        size_bytes: Of the artifact.
    """

    entry_key: str
    seconds: float
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DeviceStalled(Event):
    """The CUDA thread is in one operation for longer than ``stall_seconds``.

    Emitted when that is seen, and then about every ten seconds. Not about one kernel: ``name`` and
    ``key`` are empty.

    Attributes:
        operation: What it is at: ``launch``, ``load``, ...
        seconds: For how long.
        in_flight: Tickets that wait for the device.
    """

    operation: str
    seconds: float
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DeviceResumed(Event):
    """The CUDA thread goes on, after `DeviceStalled`. ``name`` and ``key`` are empty.

    Attributes:
        seconds: Since when the stall was first reported.
    """

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DeviceLost(Event):
    """The device's context is unusable: all its work fails from now on. ``key`` is empty.

    Attributes:
        code: The driver's code.
    """

    code: int


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
