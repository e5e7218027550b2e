"""The program in which the function of a build is called: a fresh Python, started by the worker.

It imports nothing of ajit. What it imports for the function is recorded, as every read is.
"""

from __future__ import annotations

import importlib
import marshal
import sys
import traceback

if False:  # for type checkers: `typing` would be read, and recorded, for every function
    from collections.abc import Callable
    from typing import Any


def main(given: str) -> int:
    """Call a function.

    Args:
        given: The file that says which: import path, ``module:function``, keyword arguments.

    Returns:
        An exit code: 1 if it raised.
    """
    with open(given, "rb") as file:
        path, function, arguments = marshal.load(file)  # noqa: S302 - written by the worker
    sys.path[:] = path
    sys.argv[:] = [function]
    code = 0
    try:
        _found(function)(**arguments)
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException as exc:  # noqa: BLE001 - whatever it is, the log has it
        # The last line of a traceback says the most, and a log is read from its beginning.
        first = "".join(traceback.format_exception_only(exc)).strip()
        sys.stderr.write(f"{first}\n\n{traceback.format_exc()}")
        code = 1
    return code


def _found(function: str) -> Callable[..., object]:
    module, _, name = function.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return] # what cannot be called raises, and the log has it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
