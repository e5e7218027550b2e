"""Commands on a cache whose file system may hang: they say that it does not answer, and end.

The command runs in a daemon thread. Beside it the file system is asked every second; what is slow
and goes on is not disturbed. Where the kernel lets no process end while a call of its hangs, the
message is printed all the same.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ajit._cache.files.layers import layer_paths
from ajit.cache.presence import NOT_THERE
from ajit.cli.elsewhere import other_caches
from ajit.errors import CacheError
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = [
    "if_cache_answers",
    "if_layers_answer",
    "in_background",
    "is_missing",
    "result_of",
    "while_cache_answers",
]

T = TypeVar("T")

ASK_SECONDS = 1.0


def if_cache_answers(command: Callable[..., T]) -> Callable[..., T]:
    """Let a command with a parameter ``cache_dir`` end when that does not answer any more."""
    return _ending(command, with_layers=False)


def if_layers_answer(command: Callable[..., T]) -> Callable[..., T]:
    """The same, for a command that looks at the layers of the cache as well."""
    return _ending(command, with_layers=True)


def _ending(command: Callable[..., T], *, with_layers: bool) -> Callable[..., T]:
    @functools.wraps(command)
    def run(**options: Any) -> T:
        settings = Settings(cache_dir=options["cache_dir"])
        layers = layer_paths(settings) if with_layers else ()
        work = functools.partial(command, **options)
        try:
            return while_cache_answers(settings, work, layers=layers)
        except CacheError as exc:
            if exc.reason == NOT_THERE and (told := other_caches(settings)):
                exc.add_note(told)
            raise

    return run


def while_cache_answers(
    settings: Settings, work: Callable[[], T], *, layers: Sequence[str] = (), top: bool = True
) -> T:
    """Return what a function returns that works on the cache.

    Args:
        settings: Where it is, and how long to wait for it.
        work: The function.
        layers: Layers that it works on as well.
        top: Whether it works on the cache itself.

    Raises:
        CacheError: A file system has not answered for ``patience_seconds``. The work is left.
    """
    paths = [*([str(settings.cache_dir)] if top else ()), *layers]
    patience_seconds = settings.patience_seconds
    done = in_background(work)
    asked: Outcome[object] | None = None
    now_asked, silent_seconds = [""], 0.0
    while True:
        begun = time.monotonic()
        with suppress(queue.Empty):
            return result_of(done, timeout=min(ASK_SECONDS, patience_seconds / 3))
        if asked is None or not asked.empty():
            now_asked, silent_seconds = [""], 0.0
            asked = in_background(functools.partial(_ask, paths, now_asked))
            continue
        # Capped: while this process was stopped itself, the file system was not asked.
        silent_seconds += min(time.monotonic() - begun, 2 * ASK_SECONDS)
        if silent_seconds >= patience_seconds:
            raise _silent(now_asked[-1], silent_seconds, layer=now_asked[-1] in layers)


def is_missing(path: Path) -> bool:
    """Whether there is no such file or directory; not, where the file system does not say so."""
    with suppress(queue.Empty, OSError):
        return not result_of(in_background(path.exists), timeout=2 * ASK_SECONDS)
    return False


def _ask(paths: Sequence[str], now_asked: list[str]) -> None:
    """Ask each file system, and note which one is asked: it may be the last."""
    for path in paths:
        now_asked.append(path)
        with suppress(OSError):
            os.statvfs(path)


def _silent(path: str, seconds: float, *, layer: bool) -> CacheError:
    reason = f"its file system does not answer (asked for {seconds:.0f} s)"
    way_out = "take it out of AJIT_CACHE_LAYERS" if layer else "set AJIT_CACHE_DIR to another place"
    hint = f"see whether its server runs, or {way_out}"
    return CacheError(path=path, reason=reason, hint=hint, layer=layer)


Outcome = queue.SimpleQueue[tuple[T | None, BaseException | None]]


def in_background(function: Callable[[], T]) -> Outcome[T]:
    """Call a function in a daemon thread."""
    outcome: Outcome[T] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((function(), None))
        except BaseException as exc:  # noqa: BLE001  # the caller raises it
            outcome.put((None, exc))

    threading.Thread(target=run, name="ajit-command", daemon=True).start()
    return outcome


def result_of(outcome: Outcome[T], timeout: float | None = None) -> T:
    """Return what the function has returned, or raise what it has raised.

    Raises:
        queue.Empty: It has not ended in this time.
    """
    value, error = outcome.get(timeout=timeout)
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # without an error it is what was returned
