"""The builds of one runtime: bundles that are found or built, and their views on this node.

Belongs to the runtime's event loop. The runtime itself checks whether it is open.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ajit._cache.entries.bundles import Damaged
from ajit._core.build import Command, completed
from ajit._core.bundle import BundleArtifact
from ajit._core.factory import FactoryMade
from ajit._resolve.late import caller_stack
from ajit._resolve.request import Urgency
from ajit._runtime.bundle_bytes import BundleGone, with_bundle
from ajit._runtime.turns import Turns
from ajit._runtime.work import Ready
from ajit.errors import AjitError, CacheError, SpecError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit._cache.entries.bundles import OpenBundle
    from ajit._cache.entries.views import Views
    from ajit._core.build import Build
    from ajit._core.events import Tier
    from ajit._core.job import BundleFile
    from ajit._resolve.request import Resolution, WaitedFor
    from ajit._resolve.resolver import Resolver
    from ajit._resolve.services import Services
    from ajit._runtime.statistics import Counts
    from ajit._system.shared_tasks import SharedTasks

__all__ = ["Builds", "Bundle"]


class Bundle(metaclass=FactoryMade, factory="rt.build()"):
    """The files that a build made, verified as they are used. Get it from `Runtime.build`.

    Attributes:
        name: Label of the build.
        key: Hex key, which what the build read is part of.
        base_key: Hex key of the build alone. Events and locks have it.
        files: The files, sorted by path.
        size_bytes: Size of all files together.
        log: What the build printed.
        tier: ``disk`` or ``compiled``.
        seconds: From the request to the answer.
        waited_for: The process that was waited for, if any.
    """

    def __init__(
        self, resolution: Resolution, materialize: Callable[[BundleArtifact], Awaitable[Path]]
    ) -> None:
        artifact = _bundle_of(resolution)
        self.name, self.key, self.base_key = artifact.name, artifact.key, artifact.base
        self.files: tuple[BundleFile, ...] = artifact.files
        self.size_bytes, self.log = artifact.size_bytes, artifact.log
        self.tier: Tier = resolution.tier
        self.seconds = resolution.seconds
        self.waited_for: WaitedFor | None = resolution.waited_for
        self._artifact = artifact
        self._materialize = materialize

    async def materialize(self) -> Path:
        """Return a directory of this node that has the files under their names, read-only.

        It is made if it is not there, or not what it was; then each file is verified while it is
        copied. Call it again rather than keeping the path for long: views that were not used for
        a while may be removed.

        Raises:
            CacheError: There is no place for it; nothing is left behind.
            AjitError: The entry was gone or damaged, and building it again failed.
            UsageError: The runtime is closed, or of another event loop or process.

        Cancelling only ends this wait.
        """
        return await self._materialize(self._artifact)

    def __repr__(self) -> str:
        return (
            f"<Bundle {self.name!r} {self.key[:16]} {self.tier}, {len(self.files)} files, "
            f"{self.size_bytes} bytes>"
        )


class Builds:
    """Finds or runs builds, one at a time, and makes the views of their bundles.

    Args:
        resolver: Finds artifacts.
        tasks: Where the work runs.
        counts: How requests ended.
        note: Told of each request that was answered: the build, whose it is, how long it waited.

    Attributes:
        turns: Builds that their callers make themselves.
        check_usable: Raises where the runtime cannot be used; set by the runtime.
    """

    check_usable: Callable[[], None]

    def __init__(
        self,
        resolver: Resolver,
        tasks: SharedTasks,
        counts: Counts,
        note: Callable[[Build, str, float], None],
    ) -> None:
        self._resolver = resolver
        self._tasks = tasks
        self._counts = counts
        self._note = note
        self.turns = Turns(resolver, tasks, counts)

    async def build(
        self, build: Build, *, recache: bool = False, background: bool = False, peer: str = ""
    ) -> Bundle:
        """Return the bundle of a build. As `Runtime.build`.

        Args:
            build: What to run.
            recache: Run it again even if it is cached.
            background: Whether no request waits for it; then it is not recorded.
            peer: Whose build it is, for the record; "" is the server's own.

        Cancelling only leaves.
        """
        begun = time.monotonic()
        frozen = self._services.freeze.mode is not None
        urgency = Urgency(foreground=not background, stack=caller_stack() if frozen else ())
        resolution = await self._resolve(build, urgency, recache=recache)
        if not background:
            self._note(build, peer, time.monotonic() - begun)
        return Bundle.make(resolution, partial(self._materialize, build))

    async def warm(self, build: Build, on_wait: Callable[[], None]) -> Ready:
        """Make a build ready in the background: its bundle, and the view of it on this node.

        Args:
            build: What to make ready.
            on_wait: Called when it begins to wait for another process.

        Raises:
            SpecError: A file that it copies is gone; nothing was run.
            AjitError: As `build` and `Bundle.materialize`.
        """
        gone = await self._services.in_thread(_gone, build)
        if gone:
            raise SpecError(f"build {build.name!r} copies {gone}, which is not there any more")
        urgency = Urgency(foreground=False, on_wait=on_wait)
        resolution = await self._resolve(build, urgency, recache=False)
        await self._materialize(build, _bundle_of(resolution))
        return Ready(resolution.artifact.base, resolution.tier)

    async def warm_kept(self, build: Build) -> Ready | None:
        """Make the view of a bundle that its caller alone can make; None if there is none."""
        resolution = await self._resolver.find_build(build)
        if resolution is None or await self.view(resolution) is None:
            return None
        self._counts.disk += 1
        return Ready(resolution.artifact.base, resolution.tier)

    async def _resolve(self, build: Build, urgency: Urgency, *, recache: bool) -> Resolution:
        name = ("build", build, recache)
        ahead = self._tasks.tag(name)
        if isinstance(ahead, Urgency):
            urgency.follow(ahead, self._services)
        work = partial(self._work, build, urgency, recache=recache)
        return await self._tasks.join(name, work, urgency)

    async def _work(self, build: Build, urgency: Urgency, *, recache: bool) -> Resolution:
        try:
            resolution = await self._resolver.resolve_build(build, recache=recache, urgency=urgency)
        except AjitError:
            self._counts.failed += 1
            raise
        if resolution.tier == "disk":
            self._counts.disk += 1
        else:
            self._counts.compiled += 1
        self._counts.waited += resolution.waited_for is not None
        return resolution

    # --- views ---

    async def view(self, resolution: Resolution) -> Path | None:
        """Return the view of a bundle that no build makes again; None if it is gone by now."""
        try:
            return await self._view(_bundle_of(resolution))
        except BundleGone:
            return None

    async def _materialize(self, build: Build, artifact: BundleArtifact) -> Path:
        """Make or find the view of a bundle; where its entry is gone, that of its next one."""
        self.check_usable()
        # Looked for again, which removes nothing that is good; then, where a damaged one could not
        # be removed, made again.
        for recache in (False, True):
            try:
                return await self._view(artifact)
            except BundleGone:
                resolution = await self._resolve(build, Urgency(), recache=recache)
                artifact = _bundle_of(resolution)
        try:
            return await self._view(artifact)
        except BundleGone as exc:
            raise CacheError(
                path=str(self._services.settings.cache_dir),
                reason=f"bundle {artifact.name!r} ({artifact.key[:16]}) is damaged: {exc}",
            ) from exc

    async def _view(self, artifact: BundleArtifact) -> Path:
        name = ("view", artifact.key, artifact.pack is None)
        return await self._tasks.join(name, partial(self._find_or_make, artifact))

    async def _find_or_make(self, artifact: BundleArtifact) -> Path:
        services, views = self._services, self._services.views
        found = await services.in_thread(views.find, artifact)
        if found is not None:
            return Path(found)
        try:
            if artifact.pack is not None:
                return Path(await services.in_thread(views.make, artifact, artifact.pack))
        except Damaged as exc:
            raise BundleGone(str(exc)) from exc
        return Path(await with_bundle(services, artifact, partial(_view_of, views)))

    @property
    def _services(self) -> Services:
        return self._resolver.services


def _view_of(views: Views, opened: OpenBundle) -> str:
    return views.make(opened.artifact, opened)


def _gone(build: Build) -> str:
    """A file that a build copies and that is not there, or ""."""
    if not isinstance(build.run, Command):
        return ""
    dirs = dict(build.dirs)
    paths = (completed(path, 1, "", dirs) for _, path in build.run.copies)
    return next((path for path in paths if not Path(path).exists()), "")


def _bundle_of(resolution: Resolution) -> BundleArtifact:
    artifact = resolution.artifact
    assert isinstance(artifact, BundleArtifact)  # that of a build is one
    return artifact
