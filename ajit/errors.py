"""Every exception that ajit raises, in one tree.

::

    AjitError
    ├── SpecError                  the spec is not well formed; nothing was started
    │   └── UnknownArch            no compiler here builds for that architecture
    ├── SettingsError              a setting has a value that is not allowed
    ├── CompileError               the compiler rejected the source; nothing was published
    │   └── UnknownEntryPoint      the source compiles, but has no such kernel
    ├── CompilerError              the environment failed, never blamed on the source
    │   ├── CompilerNotFound       what was searched, and what to install
    │   ├── CompilerCrashed        the compiler died by a signal, or broke off without a result
    │   ├── CompilerStalled        the compiler was stopped or used no CPU time, and was killed
    │   ├── CompileTimeout         the compile ran past its limit and was killed
    │   ├── CompileMemoryExceeded  the compiler took more memory than it may and was killed
    │   └── CompileOutputExceeded  the result is larger than it may be
    ├── CompileForbidden           a miss in frozen mode; nothing was compiled
    ├── LimitReached               this process may have no more threads, processes or files
    ├── CacheError                 the cache cannot be used at all
    │   └── UnsafeCacheDirectory   another user could put code there
    ├── KvError                    a KV service cannot be started, or not be used as it is
    ├── RanksNotReady              a rank of this server is lost or has failed: it is named
    ├── RecordError                a record of used kernels cannot be read or written
    ├── DeviceError                the driver answered with an error
    │   ├── NoDevice               there is no such device; names both ways out
    │   ├── LoadError              an artifact could not be loaded on the device
    │   ├── LaunchError            a launch was refused; nothing ran on the device
    │   │   ├── CaptureMiss        a kernel is not loaded, inside a capture; nothing was started
    │   │   └── ArgumentError      wrong number, type or size of arguments; the driver saw nothing
    │   ├── OutOfMemory            device or pinned memory is used up; nothing was allocated
    │   ├── TicketTimeout          a ticket ran past its timeout; its buffers stay alive
    │   └── DeviceLost             the context is unusable; every later call fails like this one
    └── UsageError                 the call itself was wrong; nothing was started
        ├── RuntimeClosed          the runtime is closed, or closing
        ├── ForkedRuntime          the runtime belongs to the parent process
        ├── WrongLoop              the runtime belongs to another event loop
        ├── PatchedThreads         gevent or eventlet has replaced the threads of the process
        └── WouldBlock             a ``*_nowait`` call would have had to wait

Every exception has typed fields, can be pickled, and says what failed, for which kernel and key,
and what to try. Its docstring says what is guaranteed once it has been raised.

``AjitWarning`` is for what cannot be raised: failures in finalizers, and a cache that could not be
written although the kernel was returned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ajit._printable import difference_texts, kernels_hint, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "AjitError",
    "AjitWarning",
    "ArgumentError",
    "CacheError",
    "CaptureMiss",
    "CompileError",
    "CompileForbidden",
    "CompileMemoryExceeded",
    "CompileOutputExceeded",
    "CompileTimeout",
    "CompilerCrashed",
    "CompilerError",
    "CompilerNotFound",
    "CompilerStalled",
    "DeviceError",
    "DeviceLost",
    "ForkedRuntime",
    "KvError",
    "LaunchError",
    "LimitReached",
    "LoadError",
    "NoDevice",
    "OutOfMemory",
    "PatchedThreads",
    "RanksNotReady",
    "RecordError",
    "RuntimeClosed",
    "SettingsError",
    "SpecError",
    "TicketTimeout",
    "UnknownArch",
    "UnknownEntryPoint",
    "UnsafeCacheDirectory",
    "UsageError",
    "WouldBlock",
    "WrongLoop",
]

LOG_EXCERPT_LINES = 20
LOG_EXCERPT_COLUMNS = 500
"""How much of a compiler's log goes into a message; the whole log is in the field ``log``."""

VALUE_EXCERPT = 200
"""Characters of a value in a message."""


class AjitWarning(UserWarning):
    """Something went wrong that could not be raised where it happened."""


class AjitError(Exception):
    """Base of everything that ajit raises on purpose."""

    def __init__(self, *args: object) -> None:
        # A message may have a compiler's log in it, or what another process wrote into a cache.
        super().__init__(*(printable(arg) if isinstance(arg, str) else arg for arg in args))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild, (type(self), self.args, self.__dict__)


class SpecError(AjitError):
    """A spec is not well formed. Nothing was started and nothing was read from the cache."""


class UnknownArch(SpecError):
    """The architecture is unknown, or this compiler does not build for it. Nothing was compiled.

    Attributes:
        arch: The architecture that was asked for.
        known: Architectures the compiler supports, if it could be asked.
    """

    def __init__(self, *, arch: str, compiler: str, known: Sequence[str] = ()) -> None:
        self.arch, self.compiler, self.known = arch, compiler, tuple(known)
        hint = f"; it knows {', '.join(self.known)}" if known else ""
        super().__init__(f"{compiler} does not build for arch {arch!r}{hint}")


class SettingsError(AjitError):
    """A setting has a value that is not allowed, or there is no such setting. Nothing was started.

    Attributes:
        name: The setting.
        value: The value, as given; a text instead of one that is too large to be shown.
        origin: Where the value came from: ``argument``, the name of an ``AJIT_*`` variable, or a
            configuration file with the line.
    """

    def __init__(
        self, *, name: str, value: object, origin: str, expected: str, problem: str = ""
    ) -> None:
        try:
            shown = repr(value)
        except (ValueError, RecursionError):  # an integer of thousands of digits, say
            value = shown = f"a {type(value).__name__} too large to show"
        self.name, self.value, self.origin, self.expected = name, value, origin, expected
        if len(shown) > VALUE_EXCERPT:
            shown = f"{shown[:VALUE_EXCERPT]}..."
        super().__init__(
            problem or f"setting {name} is {shown} (from {origin}); expected {expected}"
        )


class CompileError(AjitError):
    """The compiler rejected the source. Nothing was published; every waiter gets this error.

    Attributes:
        name: Label of the spec.
        key: Hex key of the spec, or "" when none was made.
        compiler: Compiler and version.
        log: Everything the compiler printed, decoded with replacement and capped.
    """

    def __init__(self, *, name: str, key: str, compiler: str, log: str) -> None:
        self.name, self.key, self.compiler, self.log = name, key, compiler, log
        super().__init__(
            f"{self._what()} {_for(name, key)} by {compiler}\n{_excerpt(log)}".rstrip()
        )

    def _what(self) -> str:
        return "compile failed"


class UnknownEntryPoint(CompileError):
    """The source compiles, but has no kernel of that name. Nothing was published.

    Attributes:
        entry: The entry point that was asked for.
        kernels: Names of kernels that the source and its virtual headers declare.
        nearest: Which of them was probably meant; "" if none is like it.
    """

    def __init__(
        self,
        *,
        entry: str,
        name: str,
        key: str,
        compiler: str,
        log: str,
        kernels: Sequence[str] = (),
        nearest: str = "",
    ) -> None:
        self.entry, self.kernels, self.nearest = entry, tuple(kernels), nearest
        super().__init__(name=name, key=key, compiler=compiler, log=log)

    def _what(self) -> str:
        return (
            f"no entry point {self.entry!r}{kernels_hint(self.kernels, self.nearest)} "
            f"(a template needs a name expression such as "
            f"'scale<float>'; other kernels are found by their declared name)"
        )


class CompilerError(AjitError):
    """A compiler could not do its work. The source is not to blame and no failure is recorded."""


class CompilerNotFound(CompilerError):
    """No compiler of that kind was found. Nothing was started.

    Attributes:
        compiler: The kind that was needed: ``nvrtc``, ``nvcc`` or ``host``.
        searched: Every place that was searched.
        install: What to install.
    """

    def __init__(self, *, compiler: str, searched: Sequence[str], install: str) -> None:
        self.compiler, self.searched, self.install = compiler, tuple(searched), install
        places = "".join(f"\n  searched {place}" for place in self.searched)
        super().__init__(f"no {compiler} compiler found; {install}{places}")


class CompilerCrashed(CompilerError):
    """The compiler died by a signal or broke off. Nothing was published; trying again is safe.

    Attributes:
        signal: The signal's name, such as ``SIGSEGV``, or "" if it exited without a result.
        exit_code: The exit code, or None if it was a signal.
    """

    def __init__(
        self, *, name: str, key: str, compiler: str, signal: str, exit_code: int | None, log: str
    ) -> None:
        self.name, self.key, self.compiler = name, key, compiler
        self.signal, self.exit_code, self.log = signal, exit_code, log
        how = f"was killed by {signal}" if signal else f"broke off with exit code {exit_code}"
        # Linux kills the biggest process when memory runs out, which is often a compiler.
        hint = "out of memory? " if signal == "SIGKILL" else ""
        what = f"{compiler} {how} {_for(name, key)} ({hint}nothing is lost; trying again is safe)"
        super().__init__(f"{what}\n{_excerpt(log)}".rstrip())


class CompileTimeout(CompilerError):
    """A compile ran past its limit. Its process group was killed; nothing was published.

    Attributes:
        limit_seconds: The limit (setting ``compile_timeout_seconds``).
    """

    def __init__(self, *, name: str, key: str, compiler: str, limit_seconds: float) -> None:
        self.name, self.key, self.compiler = name, key, compiler
        self.limit_seconds = limit_seconds
        super().__init__(
            f"{compiler} was killed after {limit_seconds:g} s {_for(name, key)}; "
            f"raise compile_timeout_seconds if the source really takes that long"
        )


class CompilerStalled(CompilerError):
    """A compiler made no progress: it was stopped, or its processes wait for each other.

    Its process group was killed; nothing was published; trying again is safe.

    Attributes:
        reason: What was seen: stopped for longer than the setting ``patience_seconds``, or no CPU
            time used for a minute.
        cpu_seconds: CPU time that it had used before.
    """

    def __init__(
        self, *, name: str, key: str, compiler: str, reason: str, cpu_seconds: float
    ) -> None:
        self.name, self.key, self.compiler = name, key, compiler
        self.reason, self.cpu_seconds = reason, cpu_seconds
        super().__init__(
            f"{compiler} {reason} {_for(name, key)}, after {cpu_seconds:.1f} s of CPU time, and "
            f"was killed; nothing is lost, trying again is safe"
        )


class CompileMemoryExceeded(CompilerError):
    """A compiler took too much memory. Its process group was killed; nothing was published.

    Attributes:
        used_bytes: Resident memory of the compiler and its children when it was killed.
        limit_bytes: The limit (setting ``compile_memory_limit_bytes``).
    """

    def __init__(
        self, *, name: str, key: str, compiler: str, used_bytes: int, limit_bytes: int
    ) -> None:
        self.name, self.key, self.compiler = name, key, compiler
        self.used_bytes, self.limit_bytes = used_bytes, limit_bytes
        super().__init__(
            f"{compiler} was killed at {_mib(used_bytes)} of memory {_for(name, key)}: the limit "
            f"is {_mib(limit_bytes)}; raise compile_memory_limit_bytes if the source really needs "
            f"that much"
        )


class CompileOutputExceeded(CompilerError):
    """A compiler's result is too large. It was thrown away; nothing was published.

    Attributes:
        size_bytes: Its size.
        limit_bytes: The limit (setting ``compile_output_limit_bytes``).
    """

    def __init__(
        self, *, name: str, key: str, compiler: str, size_bytes: int, limit_bytes: int
    ) -> None:
        self.name, self.key, self.compiler = name, key, compiler
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes
        super().__init__(
            f"{compiler} made {_mib(size_bytes)} {_for(name, key)}: the limit is "
            f"{_mib(limit_bytes)}; raise compile_output_limit_bytes if it really is that large"
        )


class CompileForbidden(AjitError):
    """A kernel is not cached, and the runtime is frozen. Nothing was compiled.

    Attributes:
        name: Label of the spec.
        key: Hex key; "" where it has none.
        nearest: Key of the cached kernel that differs least, or "" if none is like it.
        differences: The fields in which they differ: name, cached value, wanted value.
        peer: Whose kernel it is; "" is ajit's own.
        stack: Where it was asked for, outermost first: ``file:line in function``.
    """

    def __init__(
        self,
        *,
        name: str,
        key: str,
        nearest: str = "",
        differences: Sequence[tuple[str, str | None, str | None]] = (),
        peer: str = "",
        stack: Sequence[str] = (),
    ) -> None:
        self.name, self.key, self.nearest = name, key, nearest
        self.differences = tuple(differences)
        self.peer, self.stack = peer, tuple(stack)
        whose = f"{peer}: " if peer else ""
        why = "not cached, and compiling is forbidden (the runtime is frozen)"
        lines = [f"{whose}{why}, {_for(name, key)}"]
        if stack:
            lines.append(f"asked for at {stack[-1]}")
        if nearest:
            # Keys of one base share 16 digits; they differ in what the compiler read.
            shown = nearest[:16] if nearest[:16] != key[:16] else nearest[:32]
            lines.append(f"the nearest cached kernel, {shown}, differs in")
            lines += [f"  {text}" for text in difference_texts(self.differences)]
        else:
            lines.append("no similar kernel is cached; warm it up before the runtime is frozen")
        super().__init__("\n".join(lines))


class LimitReached(AjitError):
    """This process may have no more threads, processes or open files. Trying again is safe.

    What was asked for did not happen, and nothing of it is left behind.

    Attributes:
        what: ``threads``, ``processes`` or ``open files``.
        limit: How many this process may have; None if another limit was met, such as a container's.
        option: How a shell shows and sets the limit.
    """

    def __init__(self, *, what: str, limit: int | None, option: str) -> None:
        self.what, self.limit, self.option = what, limit, option
        allowed = f"{option} is {limit}" if limit is not None else "a limit of its container"
        super().__init__(
            f"the system gives this process no more {what}: {allowed} (raise it, or a container's)"
        )


class CacheError(AjitError):
    """The cache directory cannot be used. Nothing was read from it or written to it.

    Attributes:
        path: The directory.
        reason: What is wrong with it.
        layer: Whether it is a layer, of ``AJIT_CACHE_LAYERS``, and not the cache that is written.
    """

    def __init__(self, *, path: str, reason: str, hint: str = "", layer: bool = False) -> None:
        self.path, self.reason, self.hint, self.layer = path, reason, hint, layer
        what = "cache layer" if layer else "cache directory"
        super().__init__(f"{what} {path}: {reason}" + (f" ({hint})" if hint else ""))


class UnsafeCacheDirectory(CacheError):
    """Another user could put code into the cache, or into a layer. Nothing was read from it.

    The setting ``allow_unsafe_cache`` permits it for one runtime.
    """


class KvError(AjitError):
    """A KV service cannot be started, or what answers is none that can be used. Nothing was done.

    That a service is not there is no error of a client: it misses, and connects again.

    Attributes:
        path: Its socket.
        reason: What is wrong.
    """

    def __init__(self, *, path: str, reason: str, hint: str = "") -> None:
        self.path, self.reason, self.hint = path, reason, hint
        super().__init__(f"KV service {path}: {reason}" + (f" ({hint})" if hint else ""))


class RanksNotReady(AjitError):
    """Not all ranks of a server are ready, and some are not waited for any more.

    What this rank has made ready stays so, and its work goes on; it may wait again.

    Attributes:
        rank: This rank.
        ranks: How many there are.
        missing: The ranks that are lost or have failed, and what is wrong with each.
    """

    def __init__(self, *, rank: int, ranks: int, missing: Sequence[tuple[int, str]]) -> None:
        self.rank, self.ranks = rank, ranks
        self.missing = tuple(missing)
        named = "".join(f"\n  {what}" for _, what in self.missing)
        super().__init__(f"rank {rank} of {ranks} waits no longer: not all ranks are ready{named}")


class RecordError(AjitError):
    """A record of used kernels cannot be read or written. Nothing of it was made ready.

    Attributes:
        path: The record.
        reason: What is wrong with it.
    """

    def __init__(self, *, path: str, reason: str, hint: str = "") -> None:
        self.path, self.reason, self.hint = path, reason, hint
        super().__init__(f"record {path}: {reason}" + (f" ({hint})" if hint else ""))


class DeviceError(AjitError):
    """The driver answered with an error.

    Attributes:
        code: The driver's error code, or 0 where ajit refused before asking the driver.
        code_name: Its name, such as ``CUDA_ERROR_INVALID_VALUE``, or "".
        operation: What was being done.
    """

    def __init__(
        self, *, operation: str, code: int = 0, code_name: str = "", detail: str = ""
    ) -> None:
        self.operation, self.code, self.code_name = operation, code, code_name
        self.detail = detail
        says = f"{code_name or 'driver error'} ({code})" if code else ""
        super().__init__(": ".join(part for part in (operation, says, detail) if part))


class NoDevice(DeviceError):
    """There is no such device here. Nothing was started."""


class LoadError(DeviceError):
    """An artifact could not be loaded on the device. The artifact itself stays in the cache."""


class LaunchError(DeviceError):
    """A launch was refused. Nothing ran on the device."""


class CaptureMiss(LaunchError):
    """A kernel that is not loaded was asked for inside a capture. Nothing was started.

    Loading it would make the recorded step wait for a compiler, and would not become part of the
    graph. Get the kernel before the capture.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            operation=f"capture a launch of {name}",
            detail="it is not loaded, and nothing can be loaded inside a capture; "
            "get the kernel before the capture",
        )
        self.name = name


class ArgumentError(LaunchError):
    """Wrong number, type or size of arguments. The driver saw nothing of the launch.

    Attributes:
        index: Position of the argument, counted from 0, or None if their number is wrong.
    """

    def __init__(self, *, operation: str, detail: str, index: int | None = None) -> None:
        self.index = index
        super().__init__(operation=operation, detail=detail)


class OutOfMemory(DeviceError):
    """Device or pinned memory is used up. Nothing was allocated."""


class TicketTimeout(DeviceError, TimeoutError):
    """A ticket ran past its timeout. The device may still run it; its buffers stay alive.

    It is a `TimeoutError` as well, which is what ``rt.kernel(timeout=...)`` raises.
    """


class DeviceLost(DeviceError):
    """The context is unusable (a sticky error). Every ticket in flight and later call fails so."""


class UsageError(AjitError):
    """The call itself was wrong. Nothing was started."""


class RuntimeClosed(UsageError):
    """The runtime is closed or closing. Nothing was started."""


class ForkedRuntime(UsageError):
    """The runtime belongs to the parent process. The parent is unharmed; open one in the child."""


class WrongLoop(UsageError):
    """The runtime belongs to another event loop. Open one runtime in each loop."""


class PatchedThreads(UsageError):
    """gevent or eventlet has replaced the threads of this process. Nothing was started.

    A runtime would wait for ever: its event loop for a thread, and that for a turn on the same one.

    Attributes:
        library: Which of them.
        patched: What of Python it has replaced or removed, such as ``_thread.start_new_thread``.
    """

    def __init__(self, *, library: str, patched: Sequence[str]) -> None:
        self.library, self.patched = library, tuple(patched)
        super().__init__(
            f"{library} has replaced {', '.join(self.patched)} in this process, and "
            f"ajit needs Python's own; open the runtime in a process that is not patched, or patch "
            f"without {', '.join(sorted({_switch(name) for name in self.patched}))}"
        )


class WouldBlock(UsageError):
    """A ``*_nowait`` call would have had to wait. Nothing was started."""


def _switch(name: str) -> str:
    """What gevent and eventlet call the part of Python that a function belongs to."""
    module = name.partition(".")[0]
    return "thread" if module in {"_thread", "threading"} else module


def _for(name: str, key: str) -> str:
    return f"for {name or 'a spec without a name'}" + (f" (key {key[:16]})" if key else "")


def _mib(size_bytes: int) -> str:
    """A size for readers: MiB, or bytes if it is small."""
    mib = size_bytes / (1024 * 1024)
    return f"{mib:.0f} MiB" if mib >= 10 else f"{size_bytes} bytes"


def _excerpt(log: str) -> str:
    lines = log.strip().splitlines()
    shown = [
        line if len(line) <= LOG_EXCERPT_COLUMNS else f"{line[:LOG_EXCERPT_COLUMNS]}..."
        for line in lines[:LOG_EXCERPT_LINES]
    ]
    if len(lines) > LOG_EXCERPT_LINES:
        shown.append(f"... {len(lines) - LOG_EXCERPT_LINES} more lines in .log")
    return "\n".join(shown)


def _rebuild(cls: type[AjitError], args: tuple[Any, ...], fields: dict[str, Any]) -> AjitError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


for _name in __all__:  # what users see, in tracebacks and in help
    globals()[_name].__module__ = "ajit"
