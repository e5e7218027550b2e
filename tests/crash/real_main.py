"""``ajit`` as it is, but for three things, so that a fault can be aimed at one of its calls.

Its temporary files have a name that is known before, for ``strace`` is told by name which calls to
count. And it looks for no toolchain ahead, and keeps no board, so that one thread after another
does its file calls.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

from ajit._cache.files import fs
from ajit._runtime import opening as _opening
from ajit._system import process
from ajit.cli import main as command_line

if TYPE_CHECKING:
    from ajit._resolve.services import Services

__all__ = ["temporary_name"]

NO_PROCESS = 2**22 + 1
"""Above the largest process id there can be: whatever it has left may be swept."""

RANDOM = "0" * 16


def temporary_name() -> str:
    """Return what the temporary file of an entry is called."""
    return f"{_own_prefix()}.{RANDOM}"


def _own_prefix() -> str:
    us = process.this_process()
    host = us.file_prefix.partition(".")[0]
    return f"{host}.{us.namespace}.{NO_PROCESS}.1"


async def look_nowhere(services: Services) -> None:
    """Look for nothing."""
    del services


def main() -> None:
    """Run the command line."""
    us = process.this_process()
    process._remember(dataclasses.replace(us, file_prefix=_own_prefix()))
    fs.secrets = SimpleNamespace(token_hex=lambda _size: RANDOM)  # type: ignore[assignment]
    _opening.look_ahead = look_nowhere
    os.environ["AJIT_BOARD"] = "off"
    sys.exit(command_line.run(sys.argv[1:]))


if __name__ == "__main__":
    main()
