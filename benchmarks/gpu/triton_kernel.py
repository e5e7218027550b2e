"""A kernel of Triton's that does nothing; importing it needs Triton."""

from __future__ import annotations

import triton


@triton.jit
def nothing(x, n):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, ARG001  # Triton's language
    """Do nothing."""
    return  # Triton wants a statement
