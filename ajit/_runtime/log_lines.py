"""What the log says about an event: level, logger, text, and the fields of the record.

The text is for people, the fields (``extra=``) for formatters that write JSON, and for structlog.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from ajit._core import events
from ajit._core.short_repr import cut
from ajit._printable import difference_texts
from ajit._units import format_bytes
from ajit.errors import CompileError, CompileForbidden

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit.errors import AjitError

__all__ = ["Line", "fallback_failed", "first_error", "line_of"]

_SAYS_ERROR = re.compile(r"\b(?:fatal )?error\b", re.IGNORECASE)

_Text: TypeAlias = tuple[int, str]
"""Level and text."""

QUIET_QUEUE_SECONDS = 0.5
"""A shorter wait in the queue is not told. Pretty arbitrary."""

MOST_NAME = 200
"""Characters of a kernel's name in a line."""

MOST_CHARACTERS = 2000
"""Of a field: a compiler's log may have megabytes, and an aggregator refuses the record then."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log.

    Attributes:
        level: As in `logging`.
        logger: Name of the logger below ``ajit``: ``compile``, ``wait``, ``cache``, ``kernel`` or
            ``device``.
        text: For people.
        extra: Fields of the record: ``kind`` (the event's class), ``kernel``, ``key``, and what the
            event has beside, in words, numbers and nothing else.
    """

    level: int
    logger: str
    text: str
    extra: dict[str, Any]


def line_of(event: events.Event) -> Line | None:
    """Return the line about an event; None if it has none."""
    made = _MAKERS.get(type(event))
    if made is None:
        return None
    logger, make = made
    level, text = make(event, _what(event.name, event.key))
    return Line(level, logger, text, _fields_of(event))


def fallback_failed(name: str, key: str, fallback: str, error: AjitError) -> Line:
    """Return the line about a kernel that could not be made ready while its fallback serves."""
    level, text = _behind(_what(name, key), fallback, error)
    extra = {"kind": "FallbackFailed", "kernel": name, "key": key, "fallback": fallback}
    reason = str(error).partition("\n")[0][:MOST_CHARACTERS]
    return Line(level, "kernel", text, extra | {"error": type(error).__name__, "reason": reason})


_ORIGIN = {field.name for field in fields(events.Event)} - {"key", "entry"}


def _fields_of(event: events.Event) -> dict[str, Any]:
    """The fields of a record. ``name``, and others that a record has itself, go by other names."""
    made: dict[str, Any] = {"kind": type(event).__name__, "kernel": event.name[:MOST_CHARACTERS]}
    for field in fields(event):
        value = getattr(event, field.name)
        if isinstance(value, events.Holder):
            made |= _fields_of_holder(value)
        elif isinstance(value, str):
            made[field.name] = value[:MOST_CHARACTERS]
        elif isinstance(value, int | float) and field.name not in _ORIGIN:
            made[field.name] = value
    made.pop("name", None)
    made.pop("host", None)
    if "waited_seconds" in made:
        made["seconds"] = made["waited_seconds"]
    made.setdefault("phase", _PHASES.get(type(event), ""))
    return {name: value for name, value in made.items() if value != ""}


def _fields_of_holder(holder: events.Holder) -> dict[str, Any]:
    return {
        "holder_host": holder.host,
        "holder_pid": holder.pid,
        "holder_seconds": holder.age_seconds,
        "phase": holder.phase,
        "compiler": holder.compiler,
    }


def _what(name: str, key: str) -> str:
    name = cut(name, MOST_NAME)
    return f"{name} ({key[:16]})" if key else name


def _started(event: Any, what: str) -> _Text:
    target = f" for {event.arch}" if event.arch else ""  # a build has none
    why = f": {event.reason}" if event.reason else ""
    return logging.INFO, f"{what}: compiling with {event.compiler}{target}{why}"


def _running(event: Any, what: str) -> _Text:
    used = f" ({event.cpu_seconds:.1f} s CPU)" if event.cpu_seconds else ""
    still = f"still compiling with {event.compiler} after {event.seconds:.0f} s{used}"
    return logging.INFO, f"{what}: {still}"


def _waiting(event: Any, what: str) -> _Text:
    waited = event.waited_seconds
    return logging.WARNING, f"{what}: waiting for {waited:.1f} s for {_who(event.holder)}"


def _making(event: Any, what: str) -> _Text:
    doing = {
        "compiler": "the compiler is asked for its version",
        "files": "cache and headers are read",
    }[event.doing]
    waited = event.waited_seconds
    return logging.WARNING, f"{what}: its key has been made for {waited:.1f} s: {doing}"


def _wait_ended(event: Any, what: str) -> _Text:
    waited = f"{what}: waited {event.waited_seconds:.1f} s for {_who(event.holder)}"
    if event.outcome == "patience":
        return logging.WARNING, f"{waited}; patience ended: compiling for ourselves"
    return logging.INFO, f"{waited}; ended with the {event.outcome}"


def _late(event: Any, what: str) -> _Text:
    whose = f"{event.peer} " if event.peer else ""
    return logging.WARNING, f"{whose}{what}: compiled late: the runtime is frozen{_missed(event)}"


def _behind(what: str, fallback: str, error: AjitError) -> _Text:
    served = f"the fallback {fallback!r} serves in its place"
    if isinstance(error, CompileForbidden):
        why = f"not compiled, because the runtime is frozen{_missed(error)}"
        return logging.WARNING, f"{what}: {served}: {why}"
    text = str(error)
    log = text if isinstance(error, CompileError) else ""  # of others, the first line says it
    why = first_error(log) or text.partition("\n")[0]
    return logging.WARNING, f"{what}: {served}, since it could not be made ready: {why}"


def _missed(miss: events.CompiledLate | CompileForbidden) -> str:
    """What is cached instead, and who wanted it."""
    near = "; no similar kernel was found in the cache"
    if miss.nearest:
        differs = ", ".join(difference_texts(miss.differences))
        near = f"; the nearest cached kernel, {miss.nearest[:32]}, differs in {differs}"
    asked = f"; it was asked for at {miss.stack[-1]}" if miss.stack else ""
    return near + asked


def _finished(event: Any, what: str) -> _Text:
    queued = event.queued_seconds
    after = f", after {queued:.1f} s in the queue" if queued >= QUIET_QUEUE_SECONDS else ""
    done = f"compiled by {event.compiler} in {event.seconds:.2f} s"
    return logging.INFO, f"{what}: {done}{after}"


def _failed(event: Any, what: str) -> _Text:
    # The error's own first line names the kernel once more.
    error = first_error(event.error) or event.error
    return logging.WARNING, f"{what}: compile failed after {event.seconds:.2f} s: {error}"


def _cancelled(event: Any, what: str) -> _Text:
    return logging.INFO, f"{what}: compile cancelled after {event.seconds:.2f} s"


def _rejected(event: Any, what: str) -> _Text:
    return logging.WARNING, f"{what}: cached entry does not verify: {event.reason}"


def _no_locks(event: Any, what: str) -> _Text:
    return logging.WARNING, f"{what}: no lease, compiling without: {event.reason}"


def _waiting_for_permit(event: Any, what: str) -> _Text:
    held = "" if event.holder is None else f", of which {event.holder} has one"
    waited = f"{what}: queued for {event.waited_seconds:.1f} s"
    return logging.WARNING, f"{waited} for a compile permit of this machine{held}"


def _responsive(event: Any, what: str) -> _Text:  # noqa: ARG001  # it is about no kernel
    return logging.WARNING, f"the kernel cache answers again, after {event.seconds:.1f} s"


def _unresponsive(event: Any, what: str) -> _Text:  # noqa: ARG001  # likewise
    return logging.WARNING, f"the kernel cache does not answer: {event.reason}"


def _unwritable(event: Any, what: str) -> _Text:
    return logging.WARNING, f"{what}: not kept, the cache cannot be written: {event.reason}"


def _evicted(event: Any, what: str) -> _Text:  # noqa: ARG001  # likewise
    others = f" and {event.others} other files" if event.others else ""
    gone = f"evicted {event.entries} entries{others}, {format_bytes(event.size_bytes)}"
    limit = f" of {format_bytes(event.limit_bytes)}" if event.limit_bytes else ""
    left = f"{event.kept_entries} entries are left, {format_bytes(event.kept_bytes)}{limit}"
    return logging.INFO, f"{gone}; {left}"


def _background(event: Any, what: str) -> _Text:  # noqa: ARG001  # likewise
    failed = _BACKGROUND.get(event.doing, event.doing)
    return logging.WARNING, f"{failed}: {event.reason}"


_BACKGROUND = {
    "evict": "upkeep of the cache: files could not be removed",
    "touch": "upkeep of the cache: entries could not be marked as used",
    "board": "no board is kept, so ajit top does not show this runtime",
    "history": "compiles are not noted for ajit log",
}


def _fallback(event: Any, what: str) -> _Text:
    return logging.INFO, f"{what}: the fallback {event.fallback!r} serves meanwhile"


def _stalled(event: Any, what: str) -> _Text:  # noqa: ARG001  # likewise
    at = f"has been in one operation ({event.operation}) for {event.seconds:.1f} s"
    return logging.WARNING, f"the CUDA thread {at}; {event.in_flight} tickets wait for the device"


def _resumed(event: Any, what: str) -> _Text:  # noqa: ARG001  # likewise
    return logging.WARNING, f"the CUDA thread goes on, after {event.seconds:.1f} s"


def _lost(event: Any, what: str) -> _Text:
    lost = f"device {what} is lost, with the driver's code {event.code}"
    return logging.ERROR, f"{lost}: all its work fails from now on; end the process"


def _not_published(event: Any, what: str) -> _Text:
    return logging.WARNING, f"{what}: not kept in the cache: {event.reason}"


_MAKERS: dict[type[events.Event], tuple[str, Callable[[Any, str], _Text]]] = {
    events.BackgroundFailed: ("cache", _background),
    events.CacheResponsive: ("cache", _responsive),
    events.CacheUnresponsive: ("cache", _unresponsive),
    events.CacheUnwritable: ("cache", _unwritable),
    events.CompileCancelled: ("compile", _cancelled),
    events.CompileFailed: ("compile", _failed),
    events.CompileFinished: ("compile", _finished),
    events.CompileRunning: ("compile", _running),
    events.CompileStarted: ("compile", _started),
    events.CompiledLate: ("compile", _late),
    events.DeviceLost: ("device", _lost),
    events.DeviceResumed: ("device", _resumed),
    events.DeviceStalled: ("device", _stalled),
    events.EntriesEvicted: ("cache", _evicted),
    events.EntryRejected: ("cache", _rejected),
    events.FallbackUsed: ("kernel", _fallback),
    events.LocksUnavailable: ("wait", _no_locks),
    events.MakingKey: ("kernel", _making),
    events.NotPublished: ("cache", _not_published),
    events.WaitEnded: ("wait", _wait_ended),
    events.Waiting: ("wait", _waiting),
    events.WaitingForPermit: ("compile", _waiting_for_permit),
}

_PHASES: dict[type[events.Event], str] = {
    events.CompileStarted: "compiling",
    events.CompileRunning: "compiling",
    events.CompileFinished: "compiled",
    events.CompileFailed: "failed",
    events.CompileCancelled: "cancelled",
    events.WaitingForPermit: "queued",
    events.MakingKey: "making key",
}
"""Where the kernel is, for events that do not say so themselves."""


def _who(holder: events.Holder | None) -> str:
    return "another process" if holder is None else str(holder)


def first_error(text: str) -> str:
    """The compiler's first error, with its file and line: the first line that says so."""
    _, _, log = text.partition("\n")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if _SAYS_ERROR.search(line)]
    return (errors or lines or [""])[0]
