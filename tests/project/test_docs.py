"""What the documents promise to be complete about is complete."""

from __future__ import annotations

from pathlib import Path

from ajit import errors

PROJECT = Path(__file__).parents[2]


def test_every_error_says_what_is_guaranteed():
    """An error that is added has to be added to docs/errors.md."""
    text = (PROJECT / "docs" / "errors.md").read_text()
    bases = {"AjitError", "AjitWarning", "CompilerError", "DeviceError", "UsageError"}
    missing = [name for name in errors.__all__ if name not in bases and f"`{name}`" not in text]

    assert missing == []
