"""The end of a launcher: by an exit code, or by the signal that it or its compiler got."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

from ajit._launcher.resolving import resolve
from ajit._launcher.running import Stopped

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["resolve_or_end"]


def resolve_or_end(compiler: str, arguments: Sequence[str], memo_key: str) -> int:
    """Do what `resolve` does, and end as its compiler would have."""
    # A build's output is its compiler's; `ajit doctor` tells what is wrong with settings.
    warnings.simplefilter("ignore")
    try:
        code = resolve(compiler, arguments, memo_key)
    except Stopped as exc:
        code = -exc.number
    except KeyboardInterrupt:
        code = -signal.SIGINT
    if sys.stdout is not None:  # it is, where a build system has closed it
        sys.stdout.flush()
    if code < 0:
        with suppress(OSError):  # of SIGKILL nothing else is possible
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    # Threads that hang in calls on the cache must not keep the build waiting.
    os._exit(code & 0xFF)
