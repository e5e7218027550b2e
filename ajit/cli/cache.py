"""``ajit cache``: look at the kernel cache, verify it, remove from it.

Entries are found by their key, or by its first digits if those are unique. A command that only
reads never creates a cache directory; without one, it says so. None waits for a file system that
does not answer.
"""

from __future__ import annotations

import click

from ajit.cli.lazy import LazyGroup

__all__ = ["command"]


class _Commands(LazyGroup):
    lines = {  # noqa: RUF012  # never changed
        "path": "Where the cache is.",
        "ls": "List the entries.",
        "stats": "Count entries and bytes.",
        "verify": "Check every entry.",
        "inspect": "Show one entry.",
        "why": "Show how two keys differ.",
        "rm": "Remove entries.",
        "prune": "Remove least recently used entries.",
        "extract": "Write the compiled bytes of an entry.",
        "export": "Write entries into one file.",
        "import": "Put the entries of a file into the cache.",
        "check": "Say what a cache lacks.",
    }
    places = {  # noqa: RUF012  # never changed
        "path": "ajit.cli.cache_look:path_",
        "ls": "ajit.cli.cache_look:ls",
        "stats": "ajit.cli.cache_look:stats",
        "verify": "ajit.cli.cache_change:verify",
        "inspect": "ajit.cli.cache_look:inspect",
        "why": "ajit.cli.cache_look:why",
        "rm": "ajit.cli.cache_change:rm",
        "prune": "ajit.cli.cache_prune:prune",
        "extract": "ajit.cli.cache_extract:extract",
        "export": "ajit.cli.cache_export:export",
        "import": "ajit.cli.cache_archive:import_",
        "check": "ajit.cli.cache_archive:check",
    }


@click.group("cache", cls=_Commands, short_help="Look at the kernel cache.")
def command() -> None:
    """Look at the kernel cache, verify it, remove from it.

    KEY is a key of 64 hexadecimal digits, or its first digits, at least 4, if they are unique. The
    key that logs and errors name does as well: its entry's begins with the same 16 digits.
    """
