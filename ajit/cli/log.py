"""``ajit log``: the history of compiles: who compiled what, why, for how long, and how it ended."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ajit._cache.entries.history import short_reason
from ajit.cli.answering import if_cache_answers
from ajit.cli.cache_finder import Cache
from ajit.cli.drawing import Stack, Styled
from ajit.cli.elsewhere import tell_other_caches
from ajit.cli.options import duration, looked_at_option
from ajit.cli.output import (
    SHORT_KEY,
    Output,
    count,
    facts,
    format_bytes,
    format_seconds,
    format_time,
    json_option,
    table,
    tell_warning,
)
from ajit.errors import AjitError
from ajit.settings import Settings

if TYPE_CHECKING:
    from ajit._cache.entries.history import Compiled
    from ajit.cli.drawing import Table

__all__ = ["command"]

LIMIT = 20
"""Compiles shown without --limit."""

KEY_DIGITS = 8
"""A text of so many hexadecimal digits is looked for as a key alone: fewer may be of a name."""

FEW_DIGITS = 4
"""One of so many is looked for as a key as well, as in other commands."""

GOOD = ("compiled", "running")


@click.command("log", short_help="Show which compiles there were, and how they ended.")
@click.argument("text", required=False, default="")
@click.option("--failed", is_flag=True, help="Only those that gave no kernel.")
@click.option("--since", metavar="DURATION", help="Only those of the last 90s, 30m, 12h, 7d, ...")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help=f"Show only so many, the last ones; default: {LIMIT}, with a KEY 1.",
)
@looked_at_option
@json_option
@if_cache_answers
def command(  # options
    *,
    text: str,
    failed: bool,
    since: str | None,
    limit: int | None,
    cache_dir: str | None,
    as_json: bool,
) -> None:
    """List the compiles of all processes that use the cache, the last one at the end.

    With TEXT only those that have it in the kernel's name, the program, the host, the outcome or
    the error, or whose key begins with it. With a KEY, or its first digits, at least 8, the whole
    of its last compile is shown, with the compiler's log if that is kept.

    Outcomes: compiled, failed, timed out, crashed (the compiler was), cancelled (no request
    waited for it), running, killed (its process is gone), unknown (of another machine). WHY says
    what was missing or had changed. TOOK is without the time in the queue; of one that was killed
    it is more than half of it.

    Each node keeps the last megabyte or two (AJIT_HISTORY_LIMIT_BYTES).
    """
    oldest = 0.0 if since is None else time.time() - duration(since)
    cache = Cache(cache_dir)
    whole = _is_key(text)
    lines = [line for line in _read(cache) if line.unix_seconds >= oldest]
    found = [
        line for line in lines if _matches(line, text) and not (failed and line.outcome in GOOD)
    ]
    shown = found[-(limit or (1 if whole else LIMIT)) :]
    rows = [_row(line, cache if whole else None) for line in shown]
    payload = {
        "cache_dir": cache.path,
        "compiles": rows,
        "left_out": len(found) - len(rows),
    }
    draw = _draw_whole if whole and rows else _draw
    asked = text or failed or since
    output = Output(as_json=as_json)
    output.result(payload, lambda: draw(payload) if rows else _nothing(cache, asked=bool(asked)))
    if not rows:
        tell_other_caches(Settings(cache_dir=cache_dir))


def _read(cache: Cache) -> list[Compiled]:
    from ajit._cache.entries.history_reader import (  # noqa: PLC0415  # start-up
        read_history,
        unusable_history,
    )

    directory = cache.store.directory
    for name, reason in unusable_history(directory):
        tell_warning(f"not used until it is removed: {name}: {reason}")
    return read_history(directory, failed=cache.note)


def _is_key(text: str) -> bool:
    return len(text) >= KEY_DIGITS and all(digit in "0123456789abcdef" for digit in text.lower())


def _matches(line: Compiled, text: str) -> bool:
    if _is_key(text):
        return line.key.startswith(text.lower())
    fields = (
        line.name, line.entry, line.program, line.host, line.outcome, line.error_type, line.error,
        line.compiler, line.arch,
    )  # fmt: skip
    if len(text) >= FEW_DIGITS and line.key.startswith(text.lower()):
        return True
    return any(text.lower() in field.lower() for field in fields)


def _row(line: Compiled, cache: Cache | None) -> dict[str, Any]:
    row = msgspec.structs.asdict(line)
    if cache is not None and not row["log"] and line.outcome == "compiled":
        row["log"] = _kept_log(cache, line.key)
    return row


def _kept_log(cache: Cache, base: str) -> str:
    """The log that an entry of a base key has; "" if there is none."""
    with suppress(AjitError, click.UsageError):
        for key in cache.all_of(base):
            return cache.manifest(key)[0].log
    return ""


def _nothing(cache: Cache, *, asked: bool) -> str:
    what = "no such compile is known in" if asked else "no compile is known yet in"
    return f"{what} {cache.path}"


def _draw(payload: dict[str, Any]) -> Table:
    rows = payload["compiles"]
    drawn = table(
        "ended", "took", "outcome", "kernel", "key", "process", "why",
        numbers=("took",), whole=("ended", "outcome", "key"),
        optional=("process", "took", "key"),
    )  # fmt: skip
    for row in rows:
        drawn.add_row(
            format_time(row["unix_seconds"])[5:],
            _took(row),
            row["outcome"],
            row["name"],
            row["key"][:SHORT_KEY],
            f"{row['program']} {row['pid']}",
            _why(row),
        )
    left = payload["left_out"]
    drawn.caption = f"{left} more before them (see: --limit)" if left else None
    return drawn


def _draw_whole(payload: dict[str, Any]) -> Stack:
    drawn: list[str | Styled | Table] = []
    for row in payload["compiles"]:
        drawn.append(_draw_facts(row))
        if row["log"]:
            drawn += ["", Styled("log", "bold"), row["log"]]
        drawn.append("")
    if payload["left_out"]:
        drawn.append(f"{count(payload['left_out'], 'compile', 'compiles')} before (see: --limit)")
    return Stack(*drawn)


def _why(row: dict[str, Any]) -> str:
    """The error of a failed compile, else why there was one."""
    if row["outcome"] not in GOOD and row["error"]:
        return str(row["error"])
    return short_reason(row["reason"])


def _took(row: dict[str, Any]) -> str:
    """How long it took; of one whose end is not known, how long it had taken at least."""
    open_end = row["outcome"] in ("killed", "unknown")
    return f"{'>' if open_end else ''}{format_seconds(row['seconds'])}"


def _draw_facts(row: dict[str, Any]) -> Table:
    took = _took(row)
    queued = row["queued_seconds"]
    after = f", after {format_seconds(queued)} in the queue" if queued >= 0.01 else ""
    pairs = [
        ("key", row["key"]),
        ("kernel", row["name"]),
        ("entry points", row["entry"]),
        ("outcome", row["outcome"]),
        ("ended", format_time(row["unix_seconds"])),
        ("took", f"{took}{after}"),
        ("made", format_bytes(row["size_bytes"]) if row["size_bytes"] else ""),
        ("compiler", f"{row['compiler']} {row['arch']}".strip()),
        ("process", f"{row['program']} {row['pid']} on {row['host']}"),
        ("why", row["reason"]),
        ("error", f"{row['error_type']}: {row['error']}" if row["error"] else ""),
    ]
    return facts((label, value) for label, value in pairs if value)
