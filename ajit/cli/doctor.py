"""``ajit doctor``: check the installation, and say what was found and what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ajit.cli import exits
from ajit.cli.output import Output, json_option, table
from ajit.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from ajit.cli.checks import Check

__all__ = ["command"]

_MARKS = {
    "ok": ("✓", "green"),
    "absent": ("-", "dim"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "bold red"),
}


@click.command("doctor", short_help="Check the installation.")
@click.option("--cache-dir", type=click.Path(), help="Default: AJIT_CACHE_DIR, else ~/.cache/ajit.")
@click.option(
    "--with-peer",
    is_flag=True,
    help="Run on two nodes at once: find out what excludes the other node.",
)
@json_option
def command(*, cache_dir: str | None, with_peer: bool, as_json: bool) -> int:
    """Check compilers, headers, devices, the cache, its locks and layers: what was found where.

    Creates the cache directory if it is missing, as the first server would, and lets another
    process try a lock in it. Exits with 1 if something is wrong. A compiler or device that is not
    there is a problem only if no other can do its work.

    With --with-peer it waits up to two minutes for the same command on another node (or another
    mount) with the same cache, races each primitive with it that may exclude the other one, and
    says which of them do. It takes about five seconds.
    """
    from ajit.cli.checks import run_checks  # noqa: PLC0415  # command-line start-up

    checks = run_checks(Settings(cache_dir=cache_dir), with_peer=with_peer)
    healthy = all(check.status != "problem" for check in checks)
    payload = {"healthy": healthy, "checks": checks}
    Output(as_json=as_json).result(payload, lambda: _draw(checks))
    return exits.FINE if healthy else exits.PROBLEM


def _draw(checks: list[Check]) -> Table:
    from rich.text import Text  # noqa: PLC0415  # command-line start-up

    drawn = table("", "what", "found", "to know", whole=("what",))
    for check in checks:
        mark, style = _MARKS[check.status]
        drawn.add_row(Text(mark, style=style), check.name, check.found, check.advice)
    return drawn
