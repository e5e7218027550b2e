"""Late compiles: what compiles, or would, after a runtime was frozen.

A runtime is frozen by the setting ``mode`` from its start, or by `Runtime.freeze` once it is warm.
Then a miss is a mistake of the warm-up: another driver, another header, a shape that was left out.
It is told, or refused, with the nearest kernel that is cached and the parts that differ.

Adapters of other projects' compilers, in whatever thread, ask `check_late` before they compile.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ajit._core.events import CompiledLate
from ajit._core.key import explain
from ajit._system.loop import LoopHandle
from ajit.errors import CompileForbidden

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import FrameType

    from ajit._core.events import Differences, Emitter

__all__ = [
    "Freeze",
    "FreezeMode",
    "asked_from",
    "caller_stack",
    "check_late",
    "compiles_refused",
    "note_refused",
]

FreezeMode: TypeAlias = Literal["warn", "error"]

MOST_FRAMES = 20
"""Of the caller's stack, the innermost ones. Pretty arbitrary: enough to tell the request."""

_OWN = f"{Path(__file__).parents[1]}{os.sep}"


class Freeze:
    """Whether one runtime may compile. Belongs to its event loop, but for `check_late`.

    Args:
        mode: ``error`` if the runtime is frozen for its whole life.
        emitter: The runtime's.
    """

    def __init__(self, mode: FreezeMode | None, emitter: Emitter) -> None:
        self._always: FreezeMode | None = mode
        self._mode: FreezeMode | None = None
        self._emitter = emitter
        self._late = 0
        self._loop = LoopHandle.current()
        with _lock:
            _all.add(self)

    @property
    def mode(self) -> FreezeMode | None:
        """What is done about a compile: ``error``, ``warn``, or None, which is nothing."""
        return "error" if _refusals else self._always or self._mode

    @property
    def late(self) -> int:
        """How many compiles were late: told or refused."""
        return self._late

    def count(self) -> None:
        """Count one. Any thread."""
        with _lock:
            self._late += 1

    def set(self, mode: FreezeMode | None) -> None:
        """Freeze, or thaw; what is frozen for its whole life stays so."""
        self._mode = mode

    def close(self) -> None:
        """Forget it: its runtime is closed, and who compiles now is of no concern to it."""
        with _lock:
            _all.discard(self)

    def tell(self, event: CompiledLate) -> None:
        """Emit an event in the runtime's loop. Any thread."""
        self._loop.call_soon(self._emitter.emit, event)


_all: weakref.WeakSet[Freeze] = weakref.WeakSet()
_refusals: list[list[CompileForbidden]] = []
"""Of each block that refuses compiles, what it refused."""
_lock = threading.Lock()


@contextmanager
def compiles_refused() -> Iterator[list[CompileForbidden]]:
    """Freeze every runtime of this process with ``error``, those that are opened meanwhile as well.

    For tests. Any thread; blocks may overlap.

    Returns:
        The errors that were raised meanwhile, also where something swallowed them.
    """
    refused: list[CompileForbidden] = []
    with _lock:
        _refusals.append(refused)
    try:
        yield refused
    finally:
        with _lock:
            _refusals[:] = [other for other in _refusals if other is not refused]


def note_refused(error: CompileForbidden) -> CompileForbidden:
    """Note a refusal for the blocks that refuse compiles, and return it, to be raised."""
    with _lock:
        for refused in _refusals:
            refused.append(error)
    return error


def check_late(
    peer: str,
    name: str,
    parts: Mapping[str, str],
    *,
    key: str = "",
    cached: Iterable[tuple[str, Mapping[str, str]]] = (),
) -> None:
    """Tell the frozen runtimes of this process that a peer is about to compile. Any thread.

    For adapters, right before a compile. Costs next to nothing where nothing is frozen.

    Args:
        peer: Whose kernel it is, such as ``triton``.
        name: A label.
        parts: What its key is made of: a label and a short value each.
        key: Its key, if it has one.
        cached: Key and parts of what is cached; only looked at where something is frozen.

    Raises:
        CompileForbidden: A runtime is frozen with ``error``: nothing is to be compiled.
    """
    with _lock:
        frozen = [freeze for freeze in _all if freeze.mode is not None]
    if not frozen and not _refusals:
        return
    for freeze in frozen:
        freeze.count()
    nearest, differences = _nearest(parts, cached)
    stack = caller_stack()
    if _refusals or any(freeze.mode == "error" for freeze in frozen):
        error = CompileForbidden(
            name=name, key=key, peer=peer, nearest=nearest, differences=differences, stack=stack
        )
        raise note_refused(error)
    event = CompiledLate(
        name=name, key=key, peer=peer, nearest=nearest, differences=differences, stack=stack
    )
    for freeze in frozen:
        freeze.tell(event)


def caller_stack() -> tuple[str, ...]:
    """Return where the call of ajit comes from, outermost first, as ``file:line in function``.

    Reads no file. Frames of ajit itself are left out. In a call from another thread they are that
    thread's (`asked_from`).
    """
    if elsewhere := _asked_from.get():
        return elsewhere
    found: list[str] = []
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # there is no public one
    while frame is not None and len(found) < MOST_FRAMES:
        code = frame.f_code
        if not code.co_filename.startswith(_OWN):
            found.append(f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}")
        frame = frame.f_back
    return tuple(reversed(found))


def asked_from(stack: tuple[str, ...]) -> None:
    """Say, in the context of a call from another thread, where that comes from."""
    _asked_from.set(stack)


_asked_from: ContextVar[tuple[str, ...]] = ContextVar("ajit_asked_from", default=())


def _nearest(
    parts: Mapping[str, str], cached: Iterable[tuple[str, Mapping[str, str]]]
) -> tuple[str, Differences]:
    best: tuple[str, Differences] = ("", ())
    for key, other in cached:
        differences = tuple((item.field, item.a, item.b) for item in explain(other, parts))
        if differences and (not best[0] or len(differences) < len(best[1])):
            best = key, differences
    return best


def _forget() -> None:
    # A forked child has none of its parent's runtimes, and a thread that it has not may have held
    # the lock.
    global _lock  # noqa: PLW0603  # a fork replaces the state of the process
    _lock = threading.Lock()
    _all.clear()


os.register_at_fork(after_in_child=_forget)
