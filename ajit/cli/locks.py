"""``ajit locks``: the compiles that run now: their processes, since when, and how many wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ajit._system.process import is_stopped, this_process
from ajit.cache.presence import must_be_cache
from ajit.cli.answering import if_cache_answers
from ajit.cli.drawing import Stack
from ajit.cli.elsewhere import tell_other_caches
from ajit.cli.options import looked_at_option
from ajit.cli.output import SHORT_KEY, Output, format_age, json_option, table
from ajit.errors import CacheError
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._cache.entries.holders import HeldLease
    from ajit._cache.leases.holder import HolderRecord
    from ajit.cli.drawing import Drawn, Table

__all__ = ["command"]


@click.command("locks", short_help="Show running compiles and their waiters.")
@looked_at_option
@json_option
@if_cache_answers
def command(*, cache_dir: str | None, as_json: bool) -> None:
    """List every lease that is held in the cache, and this machine's compile permits.

    For each holder: AGE is since when it has the lease, CPU the time that its compiler has used
    (if it stands still, the compiler is stopped or waits), SILENT how long ago its last beat was,
    WAITERS how many processes wait for it.

    A holder writes a beat every second. A holder that has been silent for long was stopped, or its
    disk hangs: its waiters compile for themselves when AJIT_PATIENCE_SECONDS have passed. So does a
    holder whose record is not authentic, where AJIT_TRUST asks for that. Only the waiters on this
    machine are counted.
    """
    settings = Settings(cache_dir=cache_dir)
    must_be_cache(settings.cache_dir)
    rows = [_row(lease) for lease in _held(settings)]
    payload = {
        "cache_dir": settings.cache_dir,
        "leases": [row for row in rows if row["kind"] == "kernel"],
        "others": [row for row in rows if row["kind"] != "kernel"],
    }
    Output(as_json=as_json).result(payload, lambda: _draw(payload))
    if not rows:
        tell_other_caches(settings)


def _held(settings: Settings) -> list[HeldLease]:
    from ajit._cache.entries.holders import held_leases  # noqa: PLC0415  # start-up
    from ajit._cache.files.directory import open_configured_cache  # noqa: PLC0415  # start-up
    from ajit._cache.files.trust import load_trust  # noqa: PLC0415  # start-up

    directory = open_configured_cache(settings)
    if directory.access == "none":
        raise CacheError(path=directory.path, reason=directory.problem)
    return list(held_leases(directory, load_trust(settings)))


def _row(lease: HeldLease) -> dict[str, Any]:
    record = lease.record
    return {
        "kind": lease.kind,
        "key": lease.key,
        "name": record.name,
        "host": record.host,
        "pid": record.pid,
        "phase": record.phase,
        "stopped": _is_stopped(record),
        "compiler": record.compiler,
        "age_seconds": lease.age_seconds,
        "cpu_seconds": record.cpu_seconds,
        "silent_seconds": lease.silent_seconds,
        "waiters": lease.waiters,
        "authentic": lease.authentic,
    }


def _draw(payload: dict[str, Any]) -> Drawn:
    leases, others = payload["leases"], payload["others"]
    if not leases and not others:
        return f"no lease is held in {payload['cache_dir']}"
    drawn = [_draw_rows("key", leases)] if leases else []
    return Stack(*drawn, *([_draw_rows("permit or task", others)] if others else []))


def _draw_rows(heading: str, rows: Sequence[dict[str, Any]]) -> Table:
    drawn = table(
        heading, "kernel", "host", "pid", "phase", "compiler", "age", "CPU", "silent", "waiters",
        numbers=("pid", "age", "CPU", "silent", "waiters"), whole=(heading,),
        optional=("compiler", "host", "CPU", "waiters"),
    )  # fmt: skip
    for row in rows:
        key = row["key"]
        drawn.add_row(
            key[:SHORT_KEY] if row["kind"] == "kernel" else _label(row),
            row["name"],
            row["host"],
            str(row["pid"]),
            _phase(row),
            row["compiler"],
            format_age(row["age_seconds"]),
            format_age(row["cpu_seconds"]),
            format_age(row["silent_seconds"]),
            str(row["waiters"]),
        )
    return drawn


def _phase(row: dict[str, Any]) -> str:
    if not row["authentic"]:
        return "not authentic"
    return "stopped" if row["stopped"] else str(row["phase"])


def _is_stopped(record: HolderRecord) -> bool:
    """Whether its process is stopped; of one of another machine or container that is not known."""
    us = this_process()
    here = (record.boot_id, record.namespace) == (us.boot_id, us.namespace)
    return here and is_stopped(record.pid)


def _label(row: dict[str, Any]) -> str:
    """A permit has a number; every other row has a name."""
    return f"permit {row['key'].rpartition('-')[2]}" if row["kind"] == "permit" else row["key"]
