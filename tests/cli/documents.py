"""The fields of a JSON document, as docs/cli.md writes them: ``entries[].key``, ``symbols{}``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"

_HEADING = re.compile(r"^### `ajit (.+) --json`$")
_ROW = re.compile(r"^\| `([^`]+)` \|")


def documented() -> dict[str, set[str]]:
    """The fields that the page has for each command."""
    fields: dict[str, set[str]] = {}
    command = None
    for line in PAGE.read_text().splitlines():
        if heading := _HEADING.match(line):
            command = heading[1]
            fields[command] = set()
        elif line.startswith("#"):
            command = None
        elif command and (row := _ROW.match(line)):
            fields[command].add(row[1])
    return fields


def fields_of(value: Any, known: set[str], path: str = "") -> Iterator[str]:
    """The fields of a document; what is known to have any names inside is not gone into."""
    if isinstance(value, dict):
        for name, item in value.items():
            below = f"{path}.{name}" if path else name
            if f"{below}{{}}" in known:
                yield f"{below}{{}}"
            else:
                yield below
                yield from fields_of(item, known, below)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield from fields_of(item, known, f"{path}[]")
