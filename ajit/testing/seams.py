"""How a fake gets into ajit's modules: a standard module that they use is replaced by a stand-in.

Only ajit's own modules see the stand-in; everything else of the process goes on with the real one.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["replaced"]

_FACES = ("ajit.testing",)

# What a runtime imports on first use; a module that came later would have the real thing.
_LATE = ("ajit._runtime.opening", "ajit._gpu.device", "ajit._cache.entries.archive")


def replaced(name: str, real: ModuleType, stand_in: object) -> ExitStack:
    """Let ajit's modules find a stand-in under a name, until what is returned is closed.

    Raises:
        RuntimeError: Another stand-in is there.
    """
    for late in _LATE:
        importlib.import_module(late)
    stack = ExitStack()
    for module in _modules():
        there = vars(module).get(name)
        if isinstance(there, type(stand_in)):
            stack.close()
            raise RuntimeError(  # noqa: TRY004 - not a wrong type, but a wrong time
                f"there is already a stand-in for the module {name!r}"
            )
        if there is real:
            setattr(module, name, stand_in)
            stack.callback(setattr, module, name, real)
    return stack


def _modules() -> list[ModuleType]:
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("ajit.") and not name.startswith(_FACES)
    ]
