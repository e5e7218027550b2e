"""The events of a runtime: what it says it does. Subscribe to them with `Runtime.subscribe`.

::

    Event                     name and key of what it is about
    ├── KeyMade               the base key of a request, and how long it took
    ├── MakingKey             a key is in the making for long: the compiler, or cache and headers
    ├── EntryRead             an entry was read and verified
    ├── Waiting               another process holds the lease: who, for how long, in which phase
    ├── WaitEnded             how a wait ended
    ├── EntryRejected         an entry on disk did not verify, and counts as a miss
    ├── LocksUnavailable      no locks here; the compile goes on without a lease
    ├── CompileStarted        a compile was handed to the pool, and why it was a miss
    ├── CompileRunning        it goes on, once a second, with the compiler's CPU time
    ├── CompiledLate          a compile after the runtime was frozen: what differs, and who asked
    ├── CompileFinished       with its duration and size
    ├── CompileFailed         with the error
    ├── CompileCancelled      it was ended, since no request waits for it any more
    ├── WaitingForPermit      a compile waits for other compiles of this machine
    ├── CacheUnresponsive     the cache's file system does not answer, and is not used
    ├── CacheResponsive       it answers again
    ├── CacheUnwritable       an artifact could not be kept; the kernel is returned all the same
    ├── NotPublished          it is not certain what the compiler read; likewise
    ├── EntriesEvicted        files were removed because of the cache's limits or their age
    ├── BackgroundFailed      a call on the cache failed that no request waits for
    ├── ModuleLoaded          a module was loaded on the device
    ├── DeviceStalled         the CUDA thread is in one operation for long
    ├── DeviceResumed         it goes on
    ├── DeviceLost            the context is unusable
    ├── FallbackUsed          a request was answered with its fallback; key: "" until it is known
    ├── KernelReady           a request was answered, from which tier and after how long
    ├── BundleReady           the same of a build
    └── WarmupProgress        one spec of a warm-up is done

Each says when and where it was emitted: ``unix_seconds``, ``monotonic_seconds``, ``pid``, ``host``.
Every event is a frozen dataclass. `Holder` says who holds a lease, `Tier` where a kernel was found.
"""

from __future__ import annotations

from ajit._core.events import (
    BackgroundFailed,
    BundleReady,
    CacheResponsive,
    CacheUnresponsive,
    CacheUnwritable,
    CompileCancelled,
    CompiledLate,
    CompileFailed,
    CompileFinished,
    CompileRunning,
    CompileStarted,
    DeviceLost,
    DeviceResumed,
    DeviceStalled,
    Differences,
    EntriesEvicted,
    EntryRead,
    EntryRejected,
    Event,
    FallbackUsed,
    Holder,
    KernelReady,
    KeyMade,
    LocksUnavailable,
    MakingKey,
    ModuleLoaded,
    NotPublished,
    Subscriber,
    Tier,
    WaitEnded,
    Waiting,
    WaitingForPermit,
    WarmupProgress,
)

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
