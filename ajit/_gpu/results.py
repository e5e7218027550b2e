"""The driver's result codes: names, and what exception each becomes.

From ``native/table.def``, so that naming an error never calls the driver (rule R1). Names and
numbers are the driver API's, from CUDA 13.
"""

from __future__ import annotations

from ajit._gpu.wire import TABLE
from ajit.errors import (
    DeviceError,
    DeviceLost,
    LaunchError,
    LoadError,
    OutOfMemory,
    TicketTimeout,
)

__all__ = ["OUT_OF_MEMORY", "STICKY", "code_name", "device_error", "overdue"]

_ERRORS = TABLE.errors()

OUT_OF_MEMORY, _REGISTERED = TABLE.numbers(
    "ERROR", "OUT_OF_MEMORY", "HOST_MEMORY_ALREADY_REGISTERED"
)

STICKY = frozenset(code for code, (_, sticky) in _ERRORS.items() if sticky)
"""Codes of a context that cannot be used any more."""


def code_name(code: int) -> str:
    """Return the name of a driver code, or "" if it is not a documented one."""
    return f"CUDA_ERROR_{_ERRORS[code][0]}" if code in _ERRORS else ""


def device_error(operation: str, code: int, *, lost: bool = False, detail: str = "") -> DeviceError:
    """Return the exception for a driver code.

    Args:
        operation: What was being done, beginning with ``launch`` or ``load`` for those.
        code: The driver's code, not 0.
        lost: Whether the code made the context unusable.
        detail: Anything more to say.
    """
    kind = DeviceError
    if lost:
        kind = DeviceLost
        detail = detail or (
            "the device's context is unusable; close the runtime and open another, and if that "
            "fails in the same way, end the process"
        )
    elif code == OUT_OF_MEMORY:
        kind = OutOfMemory
    elif code == _REGISTERED:
        detail = detail or (
            "memory can be registered once in a process, and some of this is already; that of a KV "
            "store is shared by engines that open their pages with store=..."
        )
    elif operation.startswith("launch"):
        kind = LaunchError
    elif operation.startswith("load"):
        kind = LoadError
    return kind(operation=operation, code=code, code_name=code_name(code), detail=detail)


def overdue(operation: str, seconds: float) -> TicketTimeout:
    """Return the exception for a ticket that ran past its timeout."""
    return TicketTimeout(
        operation=operation,
        detail=f"still running on the device after {seconds:.3g} s; raise timeout or "
        f"ticket_timeout_seconds if it really takes that long",
    )
