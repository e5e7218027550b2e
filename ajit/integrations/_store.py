"""Bytes under a peer's own key, for hooks that only load and save: storage with single flight.

Such a hook has no "I begin to compile now". So a load that finds nothing *is* that: it takes the
lease, for the thread that called, and the save gives it back. In between others wait, and see for
whom. Should no save come (the compile failed, the thread has died), the turn ends when the thread
loads the next key, or after ``turn_seconds``; then the next one compiles. A save that comes after
that is kept all the same.

Any thread may use it but the runtime's event loop's.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from ajit._resolve.in_place import Made
from ajit._runtime import from_thread
from ajit._runtime.kept import kept_build, note_kept
from ajit._runtime.turns import GivenBack, Turn, Turns
from ajit.integrations._installed import GONE, warn_gone

if TYPE_CHECKING:
    from ajit._core.build import Build
    from ajit._runtime.blocking import BlockingRuntime
    from ajit._runtime.builds import Builds
    from ajit._runtime.runtime import Runtime

__all__ = ["Store", "builds_of", "turns_of"]

FILE = "code"


class Store:
    """Bytes by key, in the cache of a runtime.

    Args:
        runtime: Whose cache.
        function: What compiles, as ``module:function``.
        version: Distribution and version of the peer.
        turn_seconds: How long others wait for a compile at most; None: ``patience_seconds``.
        peer: Whose kernels these are, for the record; "": they are no kernels, and not recorded.
    """

    def __init__(
        self,
        runtime: Runtime | BlockingRuntime,
        function: str,
        version: str,
        turn_seconds: float | None = None,
        peer: str = "",
    ) -> None:
        self._runtime = runtime
        self._function = function
        self._version = version
        self._peer = peer
        settings = from_thread.runtime_of(runtime).settings
        self._seconds = settings.patience_seconds if turn_seconds is None else turn_seconds
        self._lock = threading.Lock()  # held for a few instructions only
        self._turns: dict[int, tuple[str, Turn]] = {}
        self._warned = False

    def load(self, key: str) -> bytes | None:
        """Return what is kept, waiting for the one that makes it now; None: the caller makes it.

        Raises:
            UsageError: This is the thread of the runtime's event loop; nothing was started.
            CompileForbidden: It is not kept, and the runtime is frozen.
        """
        self._leave()
        begun = time.monotonic()
        try:
            found = from_thread.call(
                self._runtime, partial(_begin, self._build(key), self._seconds)
            )
        except GONE as exc:
            self._warn(exc)
            return None
        if isinstance(found, Turn):
            with self._lock:
                self._turns[threading.get_ident()] = (key, found)
            return None
        if found is not None:
            self._note(key, time.monotonic() - begun)
        return found

    def save(self, key: str, data: bytes) -> None:
        """Keep what the caller has made, and let the others have it.

        Raises:
            UsageError: As for `load`.
        """
        made, turn = Made.of({FILE: data}), self._take(key)
        try:
            from_thread.call(self._runtime, partial(_finish, self._build(key), turn, made))
            self._note(key, made.seconds)
        except GONE as exc:
            self._warn(exc)

    def remove(self, key: str) -> bool:
        """Remove what is kept. False if there is nothing."""
        build = self._build(key)
        return from_thread.call(self._runtime, partial(_remove, build))

    def count(self) -> int:
        """How many keys of this peer are kept. Looks at every entry of the cache."""
        made = partial(_keys_made_by, self._function)
        return len(from_thread.call(self._runtime, made))

    def clear(self) -> None:
        """Remove all of them."""
        remove = partial(_remove_all, self._function)
        from_thread.call(self._runtime, remove)

    def close(self) -> None:
        """Give back what was not saved."""
        with self._lock:
            turns, self._turns = list(self._turns.values()), {}
        for _, turn in turns:
            turn.give_back()

    def _build(self, key: str) -> Build:
        label = f"{self._function.partition(':')[0]} {key[:16]}"
        return kept_build(self._function, label, self._version, key)

    def _note(self, key: str, wait_seconds: float) -> None:
        if self._peer:
            note_kept(self._peer, "", self._build(key), wait_seconds)

    def _leave(self) -> None:
        """This thread asks for something else: what it began before has come to nothing."""
        with self._lock:
            _, turn = self._turns.pop(threading.get_ident(), ("", None))
        if turn is not None:
            turn.give_back()

    def _take(self, key: str) -> Turn | None:
        """The turn that this key was begun with, by this thread or by another."""
        with self._lock:
            for thread, (begun, turn) in self._turns.items():
                if begun == key:
                    del self._turns[thread]
                    return turn
        return None

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warn_gone(self._version, error)


def builds_of(runtime: Runtime) -> Builds:
    """Return what finds and runs builds in a runtime. In its event loop."""
    runtime._check_usable()  # noqa: SLF001  # its other half
    return runtime._builds  # noqa: SLF001  # likewise


def turns_of(runtime: Runtime) -> Turns:
    """Return what gives turns in a runtime. In its event loop."""
    return builds_of(runtime).turns


async def _remove(build: Build, runtime: Runtime) -> bool:
    return await turns_of(runtime).remove(build)


async def _keys_made_by(function: str, runtime: Runtime) -> list[str]:
    return await turns_of(runtime).keys_made_by(function)


async def _remove_all(function: str, runtime: Runtime) -> None:
    await turns_of(runtime).remove_all(function)


async def _begin(build: Build, seconds: float, runtime: Runtime) -> bytes | Turn | None:
    turns = turns_of(runtime)
    for _ in range(2):  # what is damaged when it is read is removed then
        try:
            found = await turns.begin(build, seconds)
        except GivenBack:
            continue
        if isinstance(found, Turn):
            return found
        files = await turns.read(found)
        if files is not None and FILE in files:
            return files[FILE]
    return None


async def _finish(build: Build, turn: Turn | None, made: Made, runtime: Runtime) -> None:
    turns = turns_of(runtime)
    if turn is None:
        await turns.keep(build, made)
    else:
        await turns.finish(turn, made)
