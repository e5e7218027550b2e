"""Exit codes, and the errors that lead to them.

== ================================================================================================
0  fine
1  found a problem: a compile error, an entry that does not verify or is not there, a failed check
2  usage: an option, a setting or a key is not valid; nothing was started
3  partly done: a kernel was compiled but could not be stored, one key of two was removed
4  environment: no compiler, no device, a cache directory that cannot be used
== ================================================================================================

1 is also the end of a command whose standard output cannot be written. Signals end commands as
shells expect it: 130 for Control-C, 143 for SIGTERM, 141 where the output has no reader any more.
"""

from __future__ import annotations

from ajit.errors import (
    AjitError,
    CacheError,
    CompileError,
    CompilerError,
    DeviceError,
    KvError,
    LimitReached,
    RecordError,
    SettingsError,
    SpecError,
    UsageError,
)

__all__ = [
    "ENVIRONMENT",
    "FINE",
    "INTERRUPTED",
    "PARTLY",
    "PROBLEM",
    "TERMINATED",
    "UNREAD",
    "USAGE",
    "Lacking",
    "exit_code_of",
]

FINE = 0
PROBLEM = 1
USAGE = 2
PARTLY = 3
ENVIRONMENT = 4
INTERRUPTED = 130
"""Control-C: 128 plus the number of SIGINT, as shells have it."""
UNREAD = 141
"""128 plus SIGPIPE: as a program that does not know of pipes ends, and silent like it."""
TERMINATED = 143
"""128 plus SIGTERM."""


class Lacking(AjitError):
    """This machine lacks what a command needs. Nothing was started."""


# The first match counts.
_CODES: tuple[tuple[type[AjitError], int], ...] = (
    (CompileError, PROBLEM),
    (SpecError, USAGE),
    (SettingsError, USAGE),
    (UsageError, USAGE),
    (CompilerError, ENVIRONMENT),
    (CacheError, ENVIRONMENT),
    (KvError, ENVIRONMENT),
    (RecordError, ENVIRONMENT),
    (LimitReached, ENVIRONMENT),
    (DeviceError, ENVIRONMENT),
    (Lacking, ENVIRONMENT),
)


def exit_code_of(error: AjitError) -> int:
    """Return the exit code that a command ends with when it raises this error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), PROBLEM)
