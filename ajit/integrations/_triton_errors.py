"""Errors of Triton that are shared: as text in ajit's cache, and as Triton raises them again.

Only those count that tell something of the kernel. Triton's autotuner passes over a configuration
for some of them, and has to do so in every process. So their class is kept: by its name, of a short
list; nothing is unpickled.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ajit.errors import CompileError

__all__ = ["as_triton_raises", "is_about_the_kernel", "log_of", "shared_log"]

_SHARED = {
    "CompilationError": "triton.compiler.errors",
    "CompileTimeAssertionFailure": "triton.compiler.errors",
    "UnsupportedLanguageConstruct": "triton.compiler.errors",
    "PTXASError": "triton.runtime.errors",
}

_RAISED = re.compile(
    r"^triton\.(?:compiler|runtime)\.errors\.(?P<name>\w+): (?P<text>.*?)(?=\n\nTraceback|\Z)",
    re.MULTILINE | re.DOTALL,
)


def is_about_the_kernel(error: BaseException) -> bool:
    """Whether another process would get the same."""
    kind = type(error)
    return _SHARED.get(kind.__name__) == kind.__module__


def log_of(error: BaseException) -> str:
    """Return the log of the failure that others read: the class, then the text."""
    return f"{type(error).__name__}: {error}"


def shared_log(log: str) -> str | None:
    """Return the log that others read of a failure in another process; None if it is not shared."""
    found = _RAISED.search(log)
    if found is None or found["name"] not in _SHARED:
        return None
    return f"{found['name']}: {found['text']}"


def as_triton_raises(error: CompileError, log: str) -> BaseException:
    """Return a failure as the exception that it was, by what `log_of` made of it."""
    from triton.compiler import errors as of_compiler  # noqa: PLC0415  # a peer
    from triton.runtime import errors as of_runtime  # noqa: PLC0415  # likewise

    name, _, text = log.partition(": ")
    home = {"triton.compiler.errors": of_compiler, "triton.runtime.errors": of_runtime}.get(
        _SHARED.get(name, "")
    )
    if home is None:
        return error
    kind = getattr(home, name)
    made: BaseException = kind.__new__(kind)  # a compilation error wants the syntax tree
    if home is of_runtime:
        made.error_message = text.removeprefix("PTXAS error: ")  # type: ignore[attr-defined]
    else:
        made.src, made.node = None, None  # type: ignore[attr-defined]
        made.message = made.error_message = text  # type: ignore[attr-defined]
    return made
