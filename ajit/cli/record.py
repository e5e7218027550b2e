"""``ajit record``: look at a record of used kernels, merge records."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ajit._core.short_repr import cut
from ajit._core.spec_form import SPEC_KIND, parts_of
from ajit.cli import exits
from ajit.cli.output import (
    SHORT_KEY,
    Output,
    count,
    format_bytes,
    format_seconds,
    format_time,
    json_option,
    table,
)
from ajit.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ajit._core.record import Record, Use
    from ajit.cli.drawing import Table

__all__ = ["command"]

_paths = click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
_unsafe = click.option(
    "--allow-unsafe", is_flag=True, help="Read what other users own or may write to."
)


@click.group("record", short_help="Look at a record of used kernels, merge records.")
def command() -> None:
    """Look at a record of used kernels, merge records.

    A server with AJIT_RECORD=PATH (the setting `record`) writes there which kernels it uses, and
    `rt.warmup(ajit.replay(PATH))` has them ready at its next start. PATH is a folder, with a file
    for each process, or one merged file.
    """


@command.command("show", short_help="List the kernels of records.")
@_paths
@_unsafe
@json_option
def show(*, paths: tuple[Path, ...], allow_unsafe: bool, as_json: bool) -> int:
    """List the kernels of records, those that were needed first before the others.

    Of kernels with one label DIFFERS says what tells them apart: entry points, macros, flags, and
    where these are the same, headers or the source. ID is that of the line in the record.

    The times are those to the first request after the start of a process, and of how long that
    request waited. Exits with 1 if lines are damaged, but for the last of a file, which a process
    that was killed may have left.
    """
    record = _read(paths, allow_unsafe=allow_unsafe)
    payload = {
        "kernels": [_row(use) for use in record.finished()],
        "damaged_lines": record.damaged,
        "torn_lines": record.torn,
    }
    Output(as_json=as_json).result(payload, lambda: _draw(payload))
    return exits.PROBLEM if record.damaged else exits.FINE


@command.command("merge", short_help="Make one file of records.")
@_paths
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
    help="The merged file. Without it, the folder PATH is merged in its place.",
)  # fmt: skip
@_unsafe
@json_option
def merge(
    *, paths: tuple[Path, ...], output: Path | None, allow_unsafe: bool, as_json: bool
) -> None:
    """Make one file of records: each kernel once, with its counts added up.

    What is merged is yours, and what is in it is run. So builds of a record that other users own or
    may write to are left out, also with --allow-unsafe: they are commands.

    With -o nothing else is changed. Without it, the files of the one folder PATH become one, and
    files that a living process may still write to are left.
    """
    from ajit._core.build_form import RUN_KINDS  # noqa: PLC0415  # command-line start-up
    from ajit._runtime.record_files import (  # noqa: PLC0415  # command-line start-up
        merge_record,
        settled_files,
    )

    if output is None and len(paths) > 1:
        raise click.UsageError("several records are merged into a file: give -o FILE")
    record = _read(paths, allow_unsafe=allow_unsafe)
    sources: Sequence[Path] = ()
    if output is None:
        sources = settled_files(paths[0])
        record = _read(sources, allow_unsafe=allow_unsafe)
    left_out = record.drop_doubtful(RUN_KINDS)
    if left_out:
        told = count(left_out, "build", "builds")
        Output(as_json=as_json).warn(f"left out {told}, which other users may have written")
    target = output or paths[0]
    try:
        merged = merge_record(target, record, sources)
    except OSError as exc:
        raise RecordError(path=str(target), reason=exc.strerror or str(exc)) from exc
    payload = {
        "path": merged,
        "kernels": len(record.uses),
        "files_removed": len(sources),
        "builds_left_out": left_out,
        "size_bytes": merged.stat().st_size,
    }
    text = (
        f"{count(len(record.uses), 'kernel', 'kernels')} in {merged}, "
        f"{format_bytes(merged.stat().st_size)}"
    )
    Output(as_json=as_json).result(payload, lambda: text)


def _read(paths: Sequence[Path], *, allow_unsafe: bool) -> Record:
    from ajit._core.record import Record  # noqa: PLC0415  # command-line start-up
    from ajit._runtime.record_files import read_record  # noqa: PLC0415  # the same

    record = Record()
    for path in paths:
        try:
            read_record(path, allow_unsafe=allow_unsafe, record=record)
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise RecordError(path=str(path), reason=reason) from exc
    return record


def _row(use: Use) -> dict[str, Any]:
    return {
        "name": use.name,
        "kind": use.kind,
        "peer": use.peer or "ajit",
        "arch": use.arch,
        "count": use.count,
        "first_use_seconds": use.first_use_seconds,
        "wait_seconds": use.wait_seconds,
        "last_used": use.last_used,
        "id": use.id,
        "parts": parts_of(use.build) if use.kind == SPEC_KIND else {},
    }


def _differences(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """By id, what a kernel has that others of its label have not."""
    alike = defaultdict(list)
    for row in rows:
        alike[row["name"], row["kind"]].append(row)
    told = {}
    for group in alike.values():
        differing = [part for part in _SHOWN if len({row["parts"].get(part) for row in group}) > 1]
        for row in group:
            # Entry points first, also where they are the same: labels are of files.
            parts = dict.fromkeys(["entries", *differing])
            shown = (_SHOWN[part](row["parts"].get(part, ())) for part in parts)
            told[row["id"]] = " ".join(filter(None, shown))
    return told


_SHOWN: dict[str, Callable[[Sequence[str]], str]] = {
    "entries": ", ".join,
    "compiler": " ".join,
    "defines": lambda names: " ".join(f"-D{name}" for name in names),
    "options": " ".join,
    "include_dirs": lambda paths: " ".join(f"-I{path}" for path in paths),
    "headers": lambda names: " ".join(cut(name, 40) for name in names),
    "source": lambda digests: " ".join(f"source {digest[:SHORT_KEY]}" for digest in digests),
}
"""How each part is shown, in this order."""


def _draw(payload: dict[str, Any]) -> Table:
    drawn = table(
        "id", "label", "differs", "peer", "arch", "uses", "first after", "waited", "last used",
        numbers=("uses", "first after", "waited"), whole=("id", "arch", "last used"),
    )  # fmt: skip
    differences = _differences(payload["kernels"])
    for row in payload["kernels"]:
        drawn.add_row(
            row["id"][:SHORT_KEY],
            row["name"],
            differences[row["id"]],
            row["peer"],
            row["arch"],
            str(row["count"]),
            format_seconds(row["first_use_seconds"]),
            format_seconds(row["wait_seconds"]),
            format_time(row["last_used"]),
        )
    drawn.caption = count(len(payload["kernels"]), "kernel", "kernels")
    if payload["damaged_lines"]:
        lines = count(payload["damaged_lines"], "line is", "lines are")
        drawn.caption += f"; {lines} damaged, and passed over"
    return drawn
