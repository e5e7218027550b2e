"""What ``ajit cache`` shows: plain data for JSON, and the tables drawn from it."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ajit.cli.drawing import Stack, Styled
from ajit.cli.output import (
    count,
    facts,
    format_age,
    format_bytes,
    format_seconds,
    format_time,
    short_keys,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ajit._cache.entries.disk import Described
    from ajit._cache.entries.lists import ListInfo
    from ajit._cache.entries.node_digests import DigestInfo
    from ajit._core.cubin import KernelUsage
    from ajit._core.key import Difference
    from ajit.cache.scanning import CachedEntry
    from ajit.cli.drawing import Drawn, Table

__all__ = [
    "SORTS",
    "draw_differences",
    "draw_inspection",
    "draw_list",
    "draw_removed",
    "draw_summary",
    "inspection",
    "matches",
    "summarise",
]


SORTS: dict[str, Callable[[CachedEntry], Any]] = {
    "age": lambda item: item.created,
    "used": lambda item: item.last_used,
    "size": lambda item: item.file_bytes,
    "compile": lambda item: item.compile_seconds,
    "name": lambda item: (item.entries, item.name),
}
"""What entries are sorted by; the last one is what is looked for most: newest, largest, ..."""


def matches(item: CachedEntry, text: str) -> bool:
    """Whether an entry has a text in its kernels, label, arch, compiler, host or problem."""
    told = (*item.entries, item.name, item.arch, item.compiler, item.host, item.problem)
    return any(text.lower() in part.lower() for part in told)


def draw_list(
    rows: Sequence[CachedEntry], path: Path, layers: Sequence[str], left_out: int
) -> Drawn:
    """Draw the entries, one a line."""
    if not rows:
        among = f" like this among {left_out}" if left_out else ""
        return f"no entries{among} in {', '.join([str(path), *layers])}"
    labelled = any(item.name not in ("", *item.entries) for item in rows)
    drawn = table(
        "key", "kernel", *(["label"] if labelled else []), "arch", "compiler", "size", "compile",
        "age", "used", *(["layer"] if layers else []),
        numbers=("size", "compile", "age", "used"), whole=("key", "arch", "compiler"),
        optional=("compiler", "arch", "age", *(["label"] if labelled else []), "compile"),
    )  # fmt: skip
    if left_out:
        drawn.caption = f"{left_out} more are not shown"
    short = short_keys(item.key for item in rows)
    for item in rows:
        what = f"unusable: {item.problem}" if item.problem else ", ".join(item.entries)
        known = (format_bytes(item.size_bytes), format_seconds(item.compile_seconds))
        drawn.add_row(
            short[item.key],
            what,
            *([item.name] if labelled else []),
            item.arch,
            item.compiler,
            *(("", "") if item.problem else known),
            format_age(time.time() - item.created),
            format_age(time.time() - item.last_used),
            *([item.layer] if layers else []),
        )
    return drawn


def summarise(
    path: Path,
    rows: Sequence[CachedEntry],
    lists: Sequence[ListInfo],
    digests: Sequence[DigestInfo],
) -> dict[str, Any]:
    """Add up the entries, in all and for each compiler and architecture, and the other files."""
    groups: dict[tuple[str, str], list[CachedEntry]] = defaultdict(list)
    for item in rows:
        if not item.problem:
            groups[item.compiler, item.arch].append(item)
    return {
        "cache_dir": path,
        "entries": len(rows),
        "file_bytes": sum(item.file_bytes for item in rows),
        "unusable": sum(1 for item in rows if item.problem),
        "compile_seconds": sum(item.compile_seconds for item in rows),
        "groups": [
            {
                "compiler": compiler,
                "arch": arch,
                "entries": len(items),
                "file_bytes": sum(item.file_bytes for item in items),
                "compile_seconds": sum(item.compile_seconds for item in items),
            }
            for (compiler, arch), items in sorted(groups.items())
        ],
        "reading_lists": {
            "files": len(lists),
            "file_bytes": sum(item.size_bytes for item in lists),
            "reads": sum(item.reads for item in lists),
        },
        "digests": {
            "files": len(digests),
            "file_bytes": sum(item.size_bytes for item in digests),
            "records": sum(item.records for item in digests),
        },
    }


def draw_summary(summary: dict[str, Any]) -> Table:
    """Draw what `summarise` added up."""
    drawn = table(
        "compiler", "arch", "entries", "size", "compile time",
        numbers=("entries", "size", "compile time"),
    )  # fmt: skip
    for group in [*summary["groups"], {"compiler": "all", "arch": "", **summary}]:
        drawn.add_row(
            group["compiler"],
            group["arch"],
            str(group["entries"]),
            format_bytes(group["file_bytes"]),
            format_seconds(group["compile_seconds"]),
        )
    lists, digests = summary["reading_lists"], summary["digests"]
    notes = []
    if summary["unusable"]:
        notes.append(f"{summary['unusable']} of them unusable (see: ajit cache verify)")
    if lists["files"]:
        number = count(lists["files"], "reading list", "reading lists")
        notes.append(f"{number} of {format_bytes(lists['file_bytes'])}")
    if digests["files"]:
        files = count(digests["records"], "file", "files")
        nodes = count(digests["files"], "node", "nodes")
        size = format_bytes(digests["file_bytes"])
        notes.append(f"digests of {files} on {nodes}, {size}")
    drawn.caption = "\n".join(notes) or None
    return drawn


def inspection(entry: Described, layer: str, kernels: Sequence[KernelUsage] = ()) -> dict[str, Any]:
    """Everything about an entry except its bytes; and the layer that has it, or ""."""
    manifest, size_bytes, seal = entry
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    key_fields = dict(manifest.key_fields)
    more = {"key_fields": key_fields, "size_bytes": size_bytes, "seal": seal, "layer": layer}
    return fields | more | {"kernels": kernels}


def draw_inspection(entry: dict[str, Any], *, log: bool) -> Drawn:
    """Draw one entry: what it is, and what its key was made of."""
    created = format_time(entry["created"])
    lowered = (f"{name} → {symbol}" for name, symbol in entry["lowered"].items())
    files = (f"{f.path}  {format_bytes(f.size_bytes)}" for f in entry.get("files", ()))
    head = facts(
        [
            ("key", entry["key"]),
            ("base", entry["base"]),
            ("name", entry["name"]),
            ("files" if "files" in entry else "entry points", "\n".join((*lowered, *files))),
            ("kind", f"{entry['kind']}, {format_bytes(entry['size_bytes'])}"),
            ("arch", entry["arch"]),
            ("compiler", f"{entry['compiler']} {entry['compiler_version']}"),
            ("command", " ".join(entry["command"])),
            ("compiled", f"{created} on {entry['host']}, in {format_seconds(entry['seconds'])}"),
            ("ajit", entry["ajit_version"]),
            ("seal", str(entry["seal"] or "none")),
            *([("layer", entry["layer"])] if entry["layer"] else []),
        ]
    )
    key_parts = table("part of the key", "value")
    for label, value in entry["key_fields"].items():
        key_parts.add_row(label, value)
    drawn: list[str | Styled | Table] = [head, "", key_parts]
    if entry["kernels"]:
        drawn[1:1] = ["", _kernel_table(entry["kernels"])]
    if log:
        drawn += ["", Styled("log", "bold"), Styled(entry["log"] or "(empty)", "")]
    return Stack(*drawn)


def _kernel_table(kernels: Sequence[KernelUsage]) -> Table:
    drawn = table(
        "kernel", "registers", "shared", "stack", "constant", "code", "threads",
        numbers=("registers", "shared", "stack", "constant", "code", "threads"),
        optional=("constant", "threads", "code"),
    )  # fmt: skip
    for kernel in kernels:
        drawn.add_row(
            kernel.name,
            _or_unknown(kernel.registers),
            format_bytes(kernel.shared_bytes),
            "?" if kernel.stack_bytes is None else format_bytes(kernel.stack_bytes),
            format_bytes(kernel.constant_bytes),
            format_bytes(kernel.code_bytes),
            "" if kernel.max_threads is None else f"at most {kernel.max_threads}",
        )
    return drawn


def _or_unknown(number: int | None) -> str:
    return "?" if number is None else str(number)


def draw_differences(a: str, b: str, differences: Sequence[Difference]) -> Drawn:
    """Draw the parts in which two keys differ, side by side."""
    if not differences:
        return "the keys do not differ"
    short = short_keys((a, b))
    drawn = table("part of the key", short[a], short[b])
    for item in differences:
        drawn.add_row(item.field, *("(none)" if v is None else v for v in (item.a, item.b)))
    return drawn


def draw_removed(removed: Sequence[str], lists: int) -> str:
    """Say how many entries and reading lists were removed."""
    what = f"removed {count(len(removed), 'entry', 'entries')}"
    return f"{what} and {count(lists, 'reading list', 'reading lists')}" if lists else what
