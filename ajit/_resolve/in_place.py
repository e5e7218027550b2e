"""A build that its caller makes itself, under the lease, where others are made in the pool.

Some compilers cannot be moved into another process: what they compile is alive in the caller. What
ajit can still do for them is everything around it: look, lease, wait, publish, share a failure. The
walk (`ajit._resolve.walk`) is the same; only its compile is a turn that the caller takes, for a
bounded time, while this beats for it.

What such a compile reads is not recorded. Its key has to be complete: the build's ``extra_digest``
is the caller's word for that.
"""

from __future__ import annotations

import hashlib
import platform
import time
from typing import TYPE_CHECKING, Any

import anyio

import ajit
from ajit._compile.recorder.states import Unsettled
from ajit._core import events
from ajit._core.bundle import BundleArtifact
from ajit._core.job import BundleFile
from ajit._core.plan import Happening
from ajit._core.reads import NOTHING_READ, key_of
from ajit.errors import AjitError, CompileError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ajit._cache.leases.table import Lease
    from ajit._core.bundle import Content
    from ajit._resolve.compiling import Emit
    from ajit._resolve.request import Request
    from ajit._resolve.services import Services

__all__ = ["BytesContent", "InPlace", "Made", "artifact_of"]

BEAT_SECONDS = 1.0


class BytesContent:
    """The bytes of a bundle's files, in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes from an offset on. See `Content`."""
        return self._data[offset : offset + count]


class Made:
    """The files that a turn has made.

    Attributes:
        files: Sorted by path.
        content: Their bytes.
        log: What the compiler printed.
        seconds: How long it took.
    """

    def __init__(
        self, files: tuple[BundleFile, ...], content: Content, log: str = "", seconds: float = 0.0
    ) -> None:
        self.files, self.content = files, content
        self.log, self.seconds = log, seconds

    @classmethod
    def of(cls, contents: Mapping[str, bytes]) -> Made:
        """Return the same for files in memory: relative name to content."""
        named = sorted(contents.items())
        files = tuple(
            BundleFile(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in named
        )
        return cls(files, BytesContent(b"".join(data for _, data in named)))


class InPlace:
    """Stands where `ajit._resolve.compiling.Compiling` does, and has the same face.

    Args:
        services: The runtime's.
        request: What is asked for; its build has an ``extra_digest``.
        perform: Waits for what the caller makes, or raises: a `CompileError` is shared, others not.
        emit: Emits events.
        lease: Returns the lease that the walk holds now, if any, which beats meanwhile.

    Attributes:
        reason: Why it was not found; set by the walk.
        artifact: What was made.
        error: Why nothing was.
        reads: That nothing is known of them.
    """

    def __init__(
        self,
        services: Services,
        request: Request,
        perform: Callable[[], Awaitable[Made]],
        emit: Emit,
        lease: Callable[[], Lease | None],
    ) -> None:
        self._services = services
        self._request = request
        self._perform = perform
        self._emit = emit
        self._lease = lease
        self.reason = ""
        self.artifact: BundleArtifact | None = None
        self.error: AjitError | None = None
        self.reads = Unsettled("the caller compiles itself", changed=False)

    async def run(self) -> Happening:
        """Wait until the caller has compiled, and make the artifact, or the error."""
        compiler = str(self._request.toolchain.identity)
        self._emit(events.CompileStarted, compiler=compiler, arch="", reason=self.reason)
        begun = time.monotonic()
        made: Made | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._beat, compiler, begun)
            try:
                made = await self._perform()
            except CompileError as exc:
                self.error = self._named(exc)
            except AjitError as exc:
                self.error = exc
            group.cancel_scope.cancel()
        seconds = time.monotonic() - begun
        self._services.tally.compile_seconds += seconds
        if made is None:
            told = {"error": str(self.error), "error_type": type(self.error).__name__}
            self._emit(events.CompileFailed, seconds=seconds, **told)
            failed = isinstance(self.error, CompileError)
            return Happening.COMPILE_FAILED if failed else Happening.COMPILE_BROKE_OFF
        self.artifact = artifact_of(self._request, made, made.seconds or seconds)
        size_bytes = self.artifact.size_bytes
        self._emit(
            events.CompileFinished,
            compiler=compiler,
            arch="",
            seconds=seconds,
            size_bytes=size_bytes,
        )
        return Happening.COMPILED

    async def holds_today(self) -> bool:
        """Whether others may have the result: the key is all that it depends on."""
        return True

    def record_failure(self, error: CompileError) -> None:
        """Leave a record of the error for others. Blocks."""
        self._services.failures.record(error)

    def _named(self, error: CompileError) -> CompileError:
        """The same, under the base key that failures are recorded under."""
        compiler = str(self._request.toolchain.identity)
        key = self._request.wanted.base.hex
        return CompileError(name=error.name, key=key, compiler=compiler, log=error.log)

    async def _beat(self, compiler: str, begun: float) -> None:
        """Say once a second that the caller is at it. The caller itself has no time for that."""
        while True:
            lease = self._lease()
            if lease is not None:
                lease.post_beat("compiling")
            await anyio.sleep(BEAT_SECONDS)
            # What it uses of the CPU is not known: it works in this process.
            facts = {"seconds": time.monotonic() - begun, "cpu_seconds": 0.0}
            self._emit(events.CompileRunning, compiler=compiler, arch="", **facts)


def artifact_of(request: Request, made: Made, seconds: float) -> BundleArtifact:
    """Return the bundle that a caller has made."""
    base = request.wanted.base
    key = key_of(base, NOTHING_READ, ())
    toolchain = request.toolchain.identity
    manifest: dict[str, Any] = {
        "key": key.hex,
        "base": base.hex,
        "key_fields": key.fields,
        "name": request.spec.name,
        "kind": "bundle",
        "arch": "",
        "compiler": toolchain.name,
        "compiler_version": toolchain.version,
        "entries": (),
        "lowered": {},
        "log": made.log,
        "command": (),
        "created": time.time(),
        "seconds": seconds,
        "host": platform.node(),
        "ajit_version": ajit.__version__,
    }
    return BundleArtifact(files=made.files, pack=made.content, **manifest)
