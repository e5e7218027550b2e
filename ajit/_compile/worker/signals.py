"""What a worker and its compilers do with signals, whatever the server has inherited or set.

Ignored signals and the mask of blocked ones pass through ``exec``. Under a supervisor that ignores
SIGCHLD the kernel so drops the exit codes of children: a compiler that was killed seems to have
succeeded, and a source with an error seems to have crashed it. With SIGTERM blocked, nothing would
end when the server dies. `subprocess` restores only SIGPIPE and SIGXFSZ, and what it runs before
``exec`` may deadlock in a process with threads, so the worker does it as its first act.
"""

from __future__ import annotations

import signal

__all__ = ["restore_signals"]

_IGNORED_BY_PYTHON = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Python turns these into errors; `subprocess` restores them for the compilers."""


def restore_signals() -> None:
    """Give ignored signals their default effect, and block none. Only the main thread."""
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    # Last: one that was sent meanwhile takes effect now.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
