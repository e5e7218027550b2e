"""The kernels of the crash tests, and what the stand-in for a compiler makes of a source."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.images import a_shared_object

__all__ = [
    "BROKEN",
    "BROKEN_WITH_HEADER",
    "HEADERS",
    "HEADER_NAME",
    "KERNEL",
    "LOG",
    "SOURCES",
    "WITH_HEADER",
    "compiled_bytes",
    "is_broken",
    "read_header",
]

HEADERS = Path(__file__).with_name("headers")
"""An include directory. Its file is older than a run of the tests: how a file is looked up changes
when it is no longer new, and that must not come in the middle of one."""

HEADER_NAME = "value.h"

KERNEL = 'extern "C" __global__ void kernel() {}'
BROKEN = 'extern "C" __global__ void kernel() { broken }'
WITH_HEADER, BROKEN_WITH_HEADER = (
    f'#include "{HEADER_NAME}"\n{source}' for source in (KERNEL, BROKEN)
)
SOURCES = (KERNEL, BROKEN, WITH_HEADER, BROKEN_WITH_HEADER)
LOG = "error: broken is not declared"
"""The compiler's error for the broken sources."""

SIZE_BYTES = 16 * 1024


def is_broken(source: str) -> bool:
    """Whether the compiler rejects a source."""
    return source in (BROKEN, BROKEN_WITH_HEADER)


def read_header(source: str) -> str:
    """Return what a source includes; "" for nothing."""
    return (HEADERS / HEADER_NAME).read_text() if "#include" in source else ""


def compiled_bytes(source: str) -> bytes:
    """Return an image that follows from a source and its header, of the size of a small kernel."""
    digest = hashlib.sha256((source + read_header(source)).encode()).digest()
    return a_shared_object(["kernel"], (digest * (SIZE_BYTES // len(digest)))[:SIZE_BYTES])
