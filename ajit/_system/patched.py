"""Whether another library has replaced what ajit's threads and compilers are made of.

gevent and eventlet put greenlets in the place of threads, in the whole process. An event loop that
waits for such a thread waits for ever: the greenlet would have to run on the very thread that
waits. So would a lock, a queue or a child process that is waited for in a real thread. This looks
at where the functions come from, without importing either. Libraries that only wrap them, such as
those that trace or watch for blocking calls, do no harm.
"""

from __future__ import annotations

import sys

from ajit.errors import PatchedThreads

__all__ = ["check_unpatched"]

_LIBRARIES = {"gevent", "eventlet"}

_NEEDED = (
    ("_thread", "start_new_thread"),
    ("threading", "Lock"),
    ("queue", "SimpleQueue"),
    ("subprocess", "Popen"),
    ("os", "fork"),
    ("os", "waitpid"),
    ("select", "poll"),
)
"""What has to be Python's own. A module that is not imported yet cannot have been patched."""


def check_unpatched() -> None:
    """Raise if threads, or what they wait for, were replaced by greenlets.

    Raises:
        PatchedThreads: They were; nothing was started.
    """
    found = {f"{module}.{name}": _replaced_by(module, name) for module, name in _NEEDED}
    patched = {name: library for name, library in found.items() if library}
    if patched:
        library = next(iter(patched.values()))
        raise PatchedThreads(library=library, patched=tuple(patched))


def _replaced_by(module: str, name: str) -> str:
    """Return which of the libraries a function of Python comes from, or ""."""
    if module not in sys.modules:
        return ""
    function = getattr(sys.modules[module], name, None)
    if function is None:  # eventlet removes what it has no replacement for
        return "eventlet" if "eventlet" in sys.modules else ""
    package = str(getattr(function, "__module__", "")).partition(".")[0]
    return package if package in _LIBRARIES else ""
