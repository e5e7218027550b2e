"""What adapters share whose peers compile in the caller's thread: turns, warnings, the record.

Such an adapter stands before one function of its peer. It gives the key, and says how a result is
made of the files of a bundle; here is what follows: found, waited for, or the caller's turn.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ajit._resolve.in_place import Made
from ajit._runtime import from_thread
from ajit._runtime.kept import kept_build, note_kept
from ajit._runtime.turns import GivenBack, Turn
from ajit._system.warn import warn_only
from ajit.errors import AjitError, UsageError
from ajit.integrations._installed import warn_gone
from ajit.integrations._store import turns_of
from ajit.integrations._versions import version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ajit._core.build import Build
    from ajit._runtime.blocking import BlockingRuntime
    from ajit._runtime.runtime import Runtime

__all__ = ["InPlaceAdapter", "check_on_loop"]


def check_on_loop(on_loop: str) -> None:
    """Check an argument of ``install``.

    Raises:
        UsageError: It is not one of its values.
    """
    if on_loop not in ("raise", "warn"):
        raise UsageError(f"on_loop is {on_loop!r}, must be 'raise' or 'warn'")


class InPlaceAdapter:
    """What stands where a peer's compile was.

    Args:
        runtime: Where results are looked for and kept.
        distribution: That the peer comes with.
        peer: Its name, for people and for the record.
        function: What compiles, as ``module:function``.
        on_loop: What happens in the event loop's thread: ``raise`` or ``warn``.
    """

    def __init__(
        self,
        runtime: Runtime | BlockingRuntime,
        *,
        distribution: str,
        peer: str,
        function: str,
        on_loop: str,
    ) -> None:
        self.runtime = runtime
        self.version = f"{distribution} {version_of(distribution)}"
        self._peer, self._function, self._on_loop = peer, function, on_loop
        self._seconds = from_thread.runtime_of(runtime).settings.compile_timeout_seconds
        self._warned = False

    def may_wait(self, what: str, instead: str) -> bool:
        """Whether this thread may wait for a compile; if it is the loop's, warn."""
        if self._on_loop == "warn" and from_thread.is_loop_thread(self.runtime):
            warn_only(
                f"{what} is compiled in the event loop's thread, which stops meanwhile: {instead}"
            )
            return False
        return True

    def build(self, label: str, key: str) -> Build:
        """Return the build that stands for one compile."""
        return kept_build(self._function, label[:100], self.version, key)

    def found_or_made(
        self,
        build: Build,
        arch: str,
        over: Callable[[Path], Any],
        make: Callable[[Turn], Any],
        recipe: Callable[[], str] = str,
    ) -> Any:
        """Return what is made of a view, or by the caller in its turn.

        Args:
            build: What is wanted.
            arch: What it is for, for the record.
            over: Makes a result of a view; None if the view is of no use.
            make: Makes it, and ends the turn.
            recipe: Returns the text of which it is made again, for the record; "" if there is none.

        Returns:
            The result, or None: the caller is left alone with it.

        Raises:
            CompileError: Another caller has failed with it.
            AjitError: Of `GONE`: the runtime is not there any more.
        """
        begun = time.monotonic()
        for _ in range(2):  # what is damaged when it is copied is removed then
            found = from_thread.call(self.runtime, partial(_begin, build, self._seconds))
            if found is None:
                continue
            result = make(found) if isinstance(found, Turn) else over(found)
            if result is not None:
                note_kept(self._peer, arch, build, time.monotonic() - begun, recipe)
            return result
        return None

    def keep(self, turn: Turn, contents: Mapping[str, bytes]) -> None:
        """End a turn with what was made."""

        async def finish(runtime: Runtime) -> None:
            await turns_of(runtime).finish(turn, Made.of(contents))

        self._call(turn.build, finish)

    def refuse(self, turn: Turn, log: str) -> None:
        """End a turn with why nothing can be made, for all who want it."""

        async def fail(_: Runtime) -> None:
            await turn.fail(log)

        self._call(turn.build, fail)

    def gone(self, error: Exception) -> None:
        """Say, once, that the peer works alone from now on."""
        if not self._warned:
            self._warned = True
            warn_gone(self.version, error)

    def _call(self, build: Build, do: Any) -> None:
        """The caller has its own result, whatever becomes of the runtime."""
        try:
            from_thread.call(self.runtime, do)
        except AjitError as exc:
            warn_only(f"{build.name} was compiled and is not kept: {exc}")


async def _begin(build: Build, seconds: float, runtime: Runtime) -> Path | Turn | None:
    """Return the view of what is kept, or the turn to make it; None if it is gone by now."""
    try:
        found = await turns_of(runtime).begin(build, seconds)
    except GivenBack:
        return None
    if isinstance(found, Turn):
        return found
    return await runtime._builds.view(found)  # noqa: SLF001  # its other half
