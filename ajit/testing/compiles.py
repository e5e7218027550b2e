"""A block in which nothing is compiled, in none of the runtimes of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ajit._resolve.late import compiles_refused

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ajit.errors import CompileForbidden

__all__ = ["no_compiles", "told"]


def no_compiles() -> AbstractContextManager[list[CompileForbidden]]:
    """Refuse every compile of this process, in a block, and list what was refused.

    What is cached is served. A request for anything else gets `CompileForbidden`, as from a
    runtime that is frozen with ``error``; that error is in the list as well, so that a program
    which swallows it, or serves a fallback instead, hides nothing. Compiles that have begun before
    the block go on. Other processes are not meant; ``AJIT_MODE=frozen`` in their environment is for
    them.

    Returns:
        A context manager, whose value is the list. Any thread may enter it; blocks may overlap.
    """
    return compiles_refused()


def told(refused: list[CompileForbidden]) -> str:
    """Say what was refused: each kernel once, why it was a miss, and who asked."""
    lines: dict[str, str] = {}
    for error in refused:
        lines.setdefault(error.key or error.name, str(error))
    compiles = "a compile was" if len(lines) == 1 else f"{len(lines)} compiles were"
    return "\n".join([f"{compiles} asked for where none is allowed:", *lines.values()])
