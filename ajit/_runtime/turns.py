"""Turns: builds that a caller makes itself, one at a time over all processes.

`Turns.begin` answers in one of two ways: with what is in the cache, or was made by another one
meanwhile, after waiting for that; or with a `Turn`: the lease is held for the caller, who makes the
files now, in whatever thread, and hands them over. Others wait meanwhile, and are told for whom. A
turn ends by `finish`, `fail` or `give_back`, or by its deadline: then the next one begins, and
files that come all the same are kept.

Belongs to the runtime's event loop; only `Turn.give_back` may be called by any thread.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import anyio

from ajit._cache.entries.bundles import Damaged, files_of
from ajit._cache.entries.results import Described
from ajit._core.build_key import build_job
from ajit._core.bundle import BundleArtifact
from ajit._core.reads import NOTHING_READ, entry_key
from ajit._resolve.budget import Budget
from ajit._resolve.in_place import Made, artifact_of
from ajit._resolve.late import caller_stack
from ajit._resolve.request import Urgency
from ajit._resolve.resolver import prepare_build
from ajit._runtime.bundle_bytes import BundleGone, with_bundle
from ajit._system.guarded_calls import NoAnswer
from ajit._system.loop import Promise
from ajit.errors import AjitError, CompileError, RuntimeClosed, UsageError

if TYPE_CHECKING:
    from ajit._cache.entries.bundles import OpenBundle
    from ajit._compile.pool.pack import Pack
    from ajit._core.build import Build
    from ajit._core.bundle import Content
    from ajit._resolve.request import Resolution
    from ajit._resolve.resolver import Resolver
    from ajit._resolve.services import Services
    from ajit._runtime.statistics import Counts
    from ajit._system.shared_tasks import SharedTasks

__all__ = ["GivenBack", "Turn", "Turns"]


class GivenBack(UsageError):
    """A turn was not used. Internal: the next waiter takes it."""


class Turn:
    """The right to make one build's files, from `Turns.begin`.

    Attributes:
        build: What is to be made.
        seconds: After how long the next one may begin.
        urgency: Where it was asked for, if that may be of interest.
        given: Whether it was this caller's turn.
    """

    def __init__(self, build: Build, seconds: float, urgency: Urgency | None = None) -> None:
        self._urgency = urgency
        self.build = build
        self.seconds = seconds
        self.given = False
        self._begun = 0.0
        self._answered, self._ended = anyio.Event(), anyio.Event()
        self._scope = anyio.CancelScope()
        self._made: Promise[Made] = Promise()
        self._resolution: Resolution | None = None
        self._error: AjitError | None = None

    def give_back(self) -> None:
        """End it without a result. Any thread; does nothing if it has ended."""
        self._made.reject(GivenBack(f"build {self.build.name!r} was given up"))

    async def wait(self) -> None:
        """Wait until it is this caller's turn, or there is an answer. Cancelling leaves."""
        try:
            await self._answered.wait()
        except BaseException:
            self._scope.cancel()
            raise

    async def perform(self) -> Made:
        """Give the turn to the caller, and wait for the end of it."""
        self.given, self._begun = True, time.monotonic()
        self._answered.set()
        with anyio.move_on_after(self.seconds):
            return await self._made.wait()
        self.give_back()
        return await self._made.wait()  # it may have ended in this moment

    async def run(self, resolver: Resolver) -> None:
        """Walk to an answer."""
        try:
            with self._scope:
                self._resolution = await resolver.resolve_build(
                    self.build, urgency=self._urgency, perform=self.perform
                )
        except AjitError as exc:
            self._error = exc
        finally:
            self._ended.set()
            self._answered.set()

    def outcome(self) -> Resolution:
        """Return the answer, or raise it."""
        if self._error is not None:
            raise self._error
        if self._resolution is None:
            raise RuntimeClosed("the runtime was closed during this request")
        return self._resolution

    async def finish(self, made: Made) -> bool:
        """Hand the files over, and wait until they are kept. False if the turn had ended."""
        made.seconds = made.seconds or time.monotonic() - self._begun
        in_time = self._made.resolve(made)
        await self._ended.wait()
        return in_time

    async def fail(self, log: str) -> None:
        """Say that the build cannot be made, and why, to all who want it."""
        self._made.reject(_error_of(self.build, log))
        await self._ended.wait()


class Turns:
    """Gives turns in one runtime."""

    def __init__(self, resolver: Resolver, tasks: SharedTasks, counts: Counts) -> None:
        self._resolver = resolver
        self._tasks = tasks
        self._counts = counts

    async def begin(self, build: Build, seconds: float) -> Resolution | Turn:
        """Return a build's bundle, or the turn to make it.

        Args:
            build: What is wanted; it needs an ``extra_digest`` that its result depends on alone.
            seconds: How long a turn lasts at most.

        Raises:
            CompileError: Another caller has failed with it.
            CompileForbidden: It is not cached, and the runtime is frozen.

        Cancelling only leaves.
        """
        frozen = self._services.freeze.mode is not None
        turn = Turn(build, seconds, Urgency(stack=caller_stack()) if frozen else None)
        self._tasks.begin(turn, partial(turn.run, self._resolver))
        await turn.wait()
        if turn.given:
            self._counts.compiled += 1
            return turn
        try:
            resolution = turn.outcome()
        except AjitError:
            self._counts.failed += 1
            raise
        self._counts.disk += 1
        self._counts.waited += resolution.waited_for is not None
        return resolution

    async def finish(self, turn: Turn, made: Made) -> None:
        """Hand over what was made in a turn, also if that has ended by itself."""
        if not await turn.finish(made):
            await self.keep(turn.build, made)

    async def run(self, turn: Turn, build: Build) -> Resolution:
        """Make a turn's files by a build in the compile pool, and hand them over.

        Args:
            turn: It is kept if this raises: end it.
            build: What makes the files. It is not looked for by a key of its own.

        Raises:
            CompileError: It failed; no other is told of it yet.
            CompilerError: It could not be run to its end.

        Cancelling kills it.
        """
        packs: list[Pack] = []
        prepare = partial(prepare_build, build, self._resolver.sandbox, Budget(0.0))
        request = await self._services.in_thread(prepare)
        job = build_job(build, request.wanted.base.hex, [path for _, path in build.dirs])
        output = await self._services.pool.compile(
            job, on_beat=lambda *_: None, on_pack=packs.append, toolchain=request.toolchain
        )
        made = Made(output.files, packs[-1], output.log, output.seconds)
        await self.finish(turn, made)
        return turn.outcome()

    async def read(self, resolution: Resolution) -> dict[str, bytes] | None:
        """Return the files of a bundle by name; None if it is gone or damaged by now."""
        artifact = resolution.artifact
        assert isinstance(artifact, BundleArtifact)  # that of a build is one
        try:
            if artifact.pack is not None:
                return _contents(artifact, artifact.pack)
            return await with_bundle(self._services, artifact, _read)
        except (Damaged, BundleGone):
            return None

    async def keep(self, build: Build, made: Made) -> None:
        """Publish without a lease: create-only, so that it is right if others do so as well."""
        budget = Budget(self._services.settings.patience_seconds)
        try:
            await self._services.on_cache(_publish, self._resolver, build, made, budget)
        except NoAnswer:
            return

    async def remove(self, build: Build) -> bool:
        """Remove a build's bundle from the cache. False if there is none.

        Raises:
            OSError: It could not be removed.
            NoAnswer: The cache does not answer.
        """
        return await self._services.on_cache(_remove, self._resolver, build)

    async def keys_made_by(self, program: str) -> list[str]:
        """Return the keys of all bundles that a function has made. Reads the head of each bundle.

        Raises:
            OSError: They cannot be listed.
            NoAnswer: The cache does not answer.
        """
        return await self._services.on_cache(_keys_made_by, self._services, program)

    async def remove_all(self, program: str) -> None:
        """Remove them. Raises as `keys_made_by`."""
        for key in await self.keys_made_by(program):
            await self._services.on_cache(self._services.store.remove, key)

    @property
    def _services(self) -> Services:
        return self._resolver.services


def _publish(resolver: Resolver, build: Build, made: Made, budget: Budget) -> None:
    request = prepare_build(build, resolver.sandbox, budget)
    resolver.services.store.bundles.publish(artifact_of(request, made, made.seconds))


def _read(opened: OpenBundle) -> dict[str, bytes]:
    return _contents(opened.artifact, opened)


def _remove(resolver: Resolver, build: Build) -> bool:
    request = prepare_build(build, resolver.sandbox, Budget(0.0))
    key = entry_key(request.wanted.base.hex, NOTHING_READ.digest, ())
    return resolver.services.store.remove(key)


def _keys_made_by(services: Services, program: str) -> list[str]:
    def failed(_name: str, error: OSError) -> None:
        raise error

    found = []
    for entry in services.store.entries(failed=failed):
        described = services.store.bundles.describe(entry.key)
        if isinstance(described, Described) and described.manifest.compiler_version == program:
            found.append(entry.key)
    return found


def _contents(artifact: BundleArtifact, content: Content) -> dict[str, bytes]:
    return {file.path: b"".join(pieces) for file, pieces in files_of(artifact, content)}


def _error_of(build: Build, log: str) -> CompileError:
    return CompileError(name=build.name, key="", compiler=build.run.program, log=log)
