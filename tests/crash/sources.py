"""The two kernels of the crash tests, and what the stand-in for a compiler makes of a source."""

from __future__ import annotations

import hashlib

from tests.images import a_shared_object

__all__ = ["BROKEN", "KERNEL", "LOG", "compiled_bytes"]

KERNEL = 'extern "C" __global__ void kernel() {}'
BROKEN = 'extern "C" __global__ void kernel() { broken }'
LOG = "error: broken is not declared"
"""The compiler's error for the broken source."""

SIZE_BYTES = 16 * 1024


def compiled_bytes(source: str) -> bytes:
    """Return an image that follows from a source, of the size of a small kernel."""
    digest = hashlib.sha256(source.encode()).digest()
    return a_shared_object(["kernel"], (digest * (SIZE_BYTES // len(digest)))[:SIZE_BYTES])
