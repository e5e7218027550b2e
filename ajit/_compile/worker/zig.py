"""What is special about zig, the compiler that comes as a wheel."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ajit._compile.worker.messages import WorkerRequest

__all__ = ["zig_caches"]


def zig_caches(request: WorkerRequest) -> dict[str, str]:
    """Where zig keeps the library that it builds once: the user's cache, else the job's folder.

    In a sandbox it is the job's folder: what a foreign source made of it must not serve others.

    What it makes of the job's source is always in the job's folder. So no compile is answered from
    an earlier one's cache, and each reads what it depends on.
    """
    if os.path.basename(request.command[0]) != "zig":
        return {}
    home = os.environ.get("HOME", "")
    local = os.path.join(request.folder, "zig")
    in_home = request.sandbox is None and os.access(home, os.W_OK)
    shared = os.path.join(home, ".cache", "zig") if in_home else local
    return {"ZIG_LOCAL_CACHE_DIR": local, "ZIG_GLOBAL_CACHE_DIR": shared}
