"""One compile of a walk: run in the pool, what it read settled, and made an artifact or an error.

What the compiler read is digested right after it, and makes the key. If it is not certain what that
was, the result belongs to this request alone.
"""

from __future__ import annotations

import os
import platform
import time
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import ajit
from ajit._compile.recorder.states import Settled, Unsettled, missing_note, settle
from ajit._compile.recorder.today import states_today
from ajit._core import events
from ajit._core.build import Build
from ajit._core.build_key import build_job
from ajit._core.bundle import BundleArtifact
from ajit._core.entry import Artifact
from ajit._core.job import CompileJob, Seen
from ajit._core.plan import Happening
from ajit._core.reads import NOTHING_READ, key_of, unshared_key
from ajit._resolve.nearest import Nearest, nearest_cached
from ajit._system.guarded_calls import NoAnswer
from ajit._system.loop import LoopHandle
from ajit.errors import AjitError, CompileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._cache.leases.table import Lease
    from ajit._compile.pool.pack import Pack
    from ajit._compile.recorder.places import Places, Searched
    from ajit._core.job import CompileOutput, CompilerName
    from ajit._core.key import Key
    from ajit._core.reads import Read
    from ajit._core.spec import Spec
    from ajit._resolve.request import Request
    from ajit._resolve.services import Services

__all__ = ["Compiling", "job_of"]

SETTLE_SECONDS = 60.0
"""How long it may take to digest what a compile read; beyond it the result is not shared."""


class Emit(Protocol):
    """Emits an event about the kernel that is resolved."""

    def __call__(self, event: type[events.Event], **facts: Any) -> None:
        """Emit it, if there are subscribers."""


class Compiling:
    """The compile of one walk, before it, while it runs, and after it.

    Args:
        services: The runtime's.
        request: What is asked for.
        emit: Emits events.
        lease: Returns the lease that the walk holds now, if any, which beats meanwhile.

    Attributes:
        reason: Why it was not found; set by the walk.
        artifact: What it made.
        error: Why it made none.
        reads: What the compiler read, once it has answered.
    """

    def __init__(
        self, services: Services, request: Request, emit: Emit, lease: Callable[[], Lease | None]
    ) -> None:
        self._services = services
        self._request = request
        self._key = request.wanted.base.hex
        self._job = _job_for(request)
        self._pack: Pack | None = None
        self._emit = emit
        self._lease = lease
        self._seen = Seen(blind="nothing was compiled")
        self._loop: LoopHandle | None = None
        self._queued_at = 0.0
        self.reason = ""
        self.artifact: Artifact | None = None
        self.error: AjitError | None = None
        self.reads: Settled | Unsettled | None = None

    async def run(self) -> Happening:
        """Compile, digest what was read, and make the artifact, or the error."""
        request = self._request
        compiler = str(request.toolchain.identity)
        nearest = Nearest()
        if self._services.settings.explain:
            nearest = await nearest_cached(self._services, request)
        self._emit(
            events.CompileStarted,
            compiler=compiler,
            arch=request.arch,
            reason=self.reason,
            nearest=nearest.key,
            differences=nearest.differences,
        )
        begun = self._queued_at = time.monotonic()
        self._loop = LoopHandle.current()
        try:
            output = await self._services.pool.compile(
                self._job,
                on_beat=self._beat,
                on_seen=self._note_seen,
                on_pack=self._note_pack,
                toolchain=request.toolchain,
                priority=request.urgency.priority,
            )
        except AjitError as exc:
            return await self._failed(exc, time.monotonic() - begun)
        queued = max(0.0, time.monotonic() - begun - output.seconds)
        tally = self._services.tally
        tally.compile_seconds += output.seconds
        tally.queue_seconds += queued
        self.reads = await self._settle(output.data if self._pack is None else self._pack)
        key = self._new_key(self.reads)
        self.artifact = self._make_artifact(output, key)
        self._emit(
            events.CompileFinished,
            compiler=compiler,
            arch=request.arch,
            seconds=output.seconds,
            queued_seconds=queued,
            size_bytes=self.artifact.size_bytes,
        )
        if isinstance(self.reads, Unsettled) and not self._is_vouched_for(self.reads):
            return await self._keep_to_itself(self.reads)
        return Happening.COMPILED

    async def holds_today(self) -> bool:
        """Whether what the compiler read is still what it was. Only after a compile."""
        if isinstance(self.reads, Settled):
            reads, places = self.reads.list.reads, self._request.wanted.places
            return not reads or await self._states_today(reads, places) == self.reads.states
        return self.reads is not None and self._is_vouched_for(self.reads)

    async def _states_today(
        self, reads: tuple[Read, ...], places: Places
    ) -> tuple[str, ...] | None:
        try:
            return await self._services.in_thread(
                states_today, reads, places, seconds=self._services.settings.patience_seconds
            )
        except NoAnswer:
            return None

    async def _failed(self, error: AjitError, seconds: float) -> Happening:
        self.error = error
        self._services.tally.compile_seconds += seconds
        if isinstance(error, CompileError):
            if note := missing_note(self._seen, error.log, self._job.include_dirs):
                error.add_note(note)
            self.reads = await self._settle(b"")
        kind = type(error).__name__
        self._emit(events.CompileFailed, error=str(error), seconds=seconds, error_type=kind)
        if not isinstance(error, CompileError):
            return Happening.COMPILE_BROKE_OFF
        # Of a header that was half saved, or is mended, the next compile says something else. A
        # record without what was read would be believed whatever the headers are by then.
        unsure = isinstance(self.reads, Unsettled) and not self._is_vouched_for(self.reads)
        return Happening.COMPILE_BROKE_OFF if unsure else Happening.COMPILE_FAILED

    def record_failure(self, error: CompileError) -> None:
        """Leave a record of the error for others, with what the compile read. Blocks."""
        if isinstance(self.reads, Settled):
            self._services.failures.record(error, self.reads.list.reads, self.reads.states)
        else:
            self._services.failures.record(error)

    def _note_seen(self, seen: Seen) -> None:
        """Called in a thread of the compile pool, when the compile has ended."""
        self._seen = seen

    def _note_pack(self, pack: Pack) -> None:
        """Likewise, with the files of a bundle."""
        self._pack = pack

    async def _settle(self, data: Searched) -> Settled | Unsettled:
        try:
            return await self._services.in_thread(
                self._settle_beating, self._lease(), data, seconds=SETTLE_SECONDS
            )
        except NoAnswer:
            reason = f"what the compiler read could not be digested in {SETTLE_SECONDS:.0f} s"
            return Unsettled(reason, changed=True)

    def _settle_beating(self, lease: Lease | None, data: Searched) -> Settled | Unsettled:
        """Digest what was read, in a thread; another beats, for a slow disk may take its time."""
        texts = _texts_of(self._job)
        with lease.publishing() if lease is not None else nullcontext():
            return settle(self._seen, self._request.wanted.places, data, texts)

    def _new_key(self, reads: Settled | Unsettled) -> Key:
        base = self._request.wanted.base
        if isinstance(reads, Settled):
            return key_of(base, reads.list, reads.states)
        if self._is_vouched_for(reads):
            return key_of(base, NOTHING_READ, ())
        return unshared_key(base, os.urandom(16).hex())

    def _is_vouched_for(self, reads: Unsettled) -> bool:
        """Whether the spec's own digest stands for what could not be seen."""
        return not reads.changed and self._request.spec.extra_digest is not None

    async def _keep_to_itself(self, reads: Unsettled) -> Happening:
        self._emit(events.NotPublished, reason=reads.reason)
        if not reads.changed:
            self._services.warn_unseen(reads.reason)
        return Happening.COMPILED_UNSHARED

    def _beat(self, phase: str, cpu_seconds: float) -> None:
        """Called in a thread of the compile pool, once a second."""
        assert self._loop is not None  # it was set before the compile began
        if phase != "queued":
            self._loop.call_soon(partial(self._tell_running, cpu_seconds))
        elif self._services.pool.held_back == "permit":
            self._loop.call_soon(self._tell_of_permit)
        lease = self._lease()
        if lease is not None:
            lease.post_beat("queued" if phase == "queued" else "compiling", cpu_seconds)

    def _tell_running(self, cpu_seconds: float) -> None:
        """In the event loop."""
        if self._services.pool.phase(self._key) != "compiling":
            return  # it has ended meanwhile
        self._emit(
            events.CompileRunning,
            compiler=str(self._request.toolchain.identity),
            arch=self._request.arch,
            seconds=time.monotonic() - self._queued_at,
            cpu_seconds=cpu_seconds,
        )

    def _tell_of_permit(self) -> None:
        """In the event loop."""
        if self._services.pool.phase(self._key) != "queued":
            return  # it has begun meanwhile
        holder = self._services.permits.holder
        self._emit(
            events.WaitingForPermit,
            holder=holder.holder() if holder else None,
            waited_seconds=time.monotonic() - self._queued_at,
        )

    def _make_artifact(self, output: CompileOutput, key: Key) -> Artifact:
        toolchain = self._request.toolchain.identity
        manifest: dict[str, Any] = {
            "key": key.hex,
            "base": self._key,
            "key_fields": key.fields,
            "name": self._job.name,
            "kind": output.kind,
            "arch": self._request.arch,
            "compiler": toolchain.name,
            "compiler_version": toolchain.version,
            "entries": self._job.entries,
            "lowered": output.lowered,
            "log": output.log,
            "command": output.command,
            "created": time.time(),
            "seconds": output.seconds,
            "host": platform.node(),
            "ajit_version": ajit.__version__,
        }
        if self._pack is not None:
            return BundleArtifact(files=output.files, pack=self._pack, **manifest)
        return Artifact(data=output.data, **manifest)


def _job_for(request: Request) -> CompileJob:
    key = request.wanted.base.hex
    if isinstance(request.spec, Build):
        return build_job(request.spec, key, [path for _, path in request.spec.dirs])
    return job_of(request.spec, key, request.compiler, request.arch)


def _texts_of(job: CompileJob) -> list[str]:
    """What is given to the compiler, or to what is run, beside files."""
    texts = [job.source, *(text for _, text in job.headers), *job.options]
    texts += [value or "" for _, value in job.defines]
    run = job.build
    if run is not None:
        raw = (run.arguments, *(content for _, content in run.files))
        texts += [*run.argv, *(text for _, text in (*run.env, *run.templates))]
        texts += [content.decode(errors="surrogateescape") for content in raw]
    return texts


def job_of(spec: Spec, key: str, compiler: CompilerName, arch: str) -> CompileJob:
    """Return the compile that a spec asks for, with the compiler and arch that were chosen."""
    return CompileJob(
        key=key,
        name=spec.name,
        source=spec.source,
        entries=spec.entry_names,
        compiler=compiler,
        arch=arch,
        options=spec.options,
        defines=spec.defines,
        include_dirs=spec.include_dirs,
        headers=spec.headers,
    )
