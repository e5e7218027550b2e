"""docs/architecture.md names what there is, and all of it."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / "docs" / "architecture.md").read_text()
PAGES = [PROJECT / "docs" / "architecture.md", PROJECT / "CONTRIBUTING.md"]


def test_every_path_exists():
    """A module that moves has to move on the pages as well."""
    named = {
        path
        for page in PAGES
        for path in re.findall(r"`((?:ajit|tests)/[\w./-]+)`", page.read_text())
    }

    assert len(named) > 30
    assert [path for path in sorted(named) if not (PROJECT / path).exists()] == []


def test_every_package_has_its_room():
    """A package that is added has to be added to the table of rooms."""
    packages = {
        str(init.parent.relative_to(PROJECT)) for init in (PROJECT / "ajit").rglob("__init__.py")
    } - {"ajit"}

    assert [name for name in sorted(packages) if f"`{name}`" not in TEXT] == []
