"""What tells the CPU of this machine apart from others, for options such as ``-march=native``."""

from __future__ import annotations

import hashlib
import platform
from functools import cache

__all__ = ["this_machine"]

_TELLING = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features")
"""Lines of ``/proc/cpuinfo`` that decide what compilers make of "native"."""


@cache
def this_machine() -> str:
    """Return a digest of the kind of CPU: equal on machines where "native" means the same."""
    lines = [platform.machine()]
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            first = file.read().partition("\n\n")[0]
    except OSError:
        first = platform.node()  # at least not another machine's
    lines += [line for line in first.splitlines() if line.partition("\t")[0].strip() in _TELLING]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
