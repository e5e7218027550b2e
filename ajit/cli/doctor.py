"""``ajit doctor``: check the installation, and say what was found and what it means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ajit.cli import exits
from ajit.cli.drawing import Styled
from ajit.cli.output import Output, json_option, table
from ajit.settings import usable_settings

if TYPE_CHECKING:
    from ajit.cli.checks import Check
    from ajit.cli.drawing import Table
    from ajit.settings import Settings

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
@click.option(
    "--bundle",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write a zip file for a report, without secrets.",
)
@click.option("--no-logs", is_flag=True, help="Leave compilers' logs out of that file.")
@json_option
def command(
    *, cache_dir: str | None, with_peer: bool, bundle: Path | None, no_logs: bool, as_json: bool
) -> int:
    """Check compilers, headers, devices, the cache, its locks and layers: what was found where.

    Creates the cache directory if it is missing, as the first server would, and lets another
    process try a lock in it. Exits with 1 if something is wrong. A compiler or device that is not
    there is a problem only if no other can do its work.

    With --with-peer it waits up to two minutes for the same command on another node (or another
    mount) with the same cache, races each primitive with it that may exclude the other one, and
    says which of them do. It takes about five seconds.

    With --bundle FILE it also packs what was found, versions, settings with their origins, the
    cache in numbers and the failures of the last hours into a file that only this user may read.
    Secrets, tokens, home directories and the names of user and machine are taken out, and no
    variable but AJIT_* and a few others is told. Compilers' logs may quote lines of a source. An
    existing file is not replaced.
    """
    from ajit.cli.checks import check_settings, run_checks  # noqa: PLC0415  # start-up

    settings, wrong = usable_settings(cache_dir=cache_dir)
    output = Output(as_json=as_json)
    if bundle is not None and os.path.lexists(bundle):
        raise click.UsageError(f"{bundle} is there: name a file that is to be made")
    checks = [*check_settings(wrong), *run_checks(settings, with_peer=with_peer)]
    healthy = all(check.status != "problem" for check in checks)
    payload: dict[str, Any] = {"healthy": healthy, "checks": checks}
    if bundle is not None:
        payload["bundle"] = _pack(bundle, settings, checks, output, logs=not no_logs)
    output.result(payload, lambda: _draw(checks))
    return exits.FINE if healthy else exits.PROBLEM


def _pack(
    path: Path, settings: Settings, checks: list[Check], output: Output, *, logs: bool
) -> dict[str, Any]:
    from ajit.cli.support import write_bundle  # noqa: PLC0415  # command-line start-up

    members = write_bundle(path, settings, checks, logs=logs)
    output.note(f"{path}: {', '.join(members)}; look through it before you send it")
    return {"file": str(path), "members": members}


def _draw(checks: list[Check]) -> Table:
    drawn = table("", "what", "found", "to know", whole=("what",))
    for check in checks:
        mark, style = _MARKS[check.status]
        drawn.add_row(Styled(mark, style), check.name, check.found, check.advice)
    return drawn
