"""The driver's result codes: names, and what exception each becomes.

A static table, so that naming an error never calls the driver (rule R1). Names and numbers are the
driver API's, from CUDA 13.
"""

from __future__ import annotations

from ajit.errors import (
    DeviceError,
    DeviceLost,
    LaunchError,
    LoadError,
    OutOfMemory,
    TicketTimeout,
)

__all__ = ["OUT_OF_MEMORY", "STICKY", "code_name", "device_error", "overdue"]

OUT_OF_MEMORY = 2

STICKY = frozenset({4, 214, 220, 226, 700, 702, 709, 710, *range(714, 720), 721, 810, 911})
"""Codes of a context that cannot be used any more: those of ``ajit_driver_is_sticky``."""

_NAMES = {
    1: "INVALID_VALUE", 2: "OUT_OF_MEMORY", 3: "NOT_INITIALIZED", 4: "DEINITIALIZED",
    5: "PROFILER_DISABLED", 34: "STUB_LIBRARY", 36: "CALL_REQUIRES_NEWER_DRIVER",
    46: "DEVICE_UNAVAILABLE", 100: "NO_DEVICE", 101: "INVALID_DEVICE", 102: "DEVICE_NOT_LICENSED",
    200: "INVALID_IMAGE", 201: "INVALID_CONTEXT", 202: "CONTEXT_ALREADY_CURRENT",
    205: "MAP_FAILED", 206: "UNMAP_FAILED", 207: "ARRAY_IS_MAPPED", 208: "ALREADY_MAPPED",
    209: "NO_BINARY_FOR_GPU", 210: "ALREADY_ACQUIRED", 211: "NOT_MAPPED",
    212: "NOT_MAPPED_AS_ARRAY", 213: "NOT_MAPPED_AS_POINTER", 214: "ECC_UNCORRECTABLE",
    215: "UNSUPPORTED_LIMIT", 216: "CONTEXT_ALREADY_IN_USE", 217: "PEER_ACCESS_UNSUPPORTED",
    218: "INVALID_PTX", 219: "INVALID_GRAPHICS_CONTEXT", 220: "NVLINK_UNCORRECTABLE",
    221: "JIT_COMPILER_NOT_FOUND", 222: "UNSUPPORTED_PTX_VERSION", 223: "JIT_COMPILATION_DISABLED",
    224: "UNSUPPORTED_EXEC_AFFINITY", 225: "UNSUPPORTED_DEVSIDE_SYNC", 226: "CONTAINED",
    300: "INVALID_SOURCE", 301: "FILE_NOT_FOUND", 302: "SHARED_OBJECT_SYMBOL_NOT_FOUND",
    303: "SHARED_OBJECT_INIT_FAILED", 304: "OPERATING_SYSTEM", 400: "INVALID_HANDLE",
    401: "ILLEGAL_STATE", 402: "LOSSY_QUERY", 500: "NOT_FOUND", 600: "NOT_READY",
    700: "ILLEGAL_ADDRESS", 701: "LAUNCH_OUT_OF_RESOURCES", 702: "LAUNCH_TIMEOUT",
    703: "LAUNCH_INCOMPATIBLE_TEXTURING", 704: "PEER_ACCESS_ALREADY_ENABLED",
    705: "PEER_ACCESS_NOT_ENABLED", 708: "PRIMARY_CONTEXT_ACTIVE", 709: "CONTEXT_IS_DESTROYED",
    710: "ASSERT", 711: "TOO_MANY_PEERS", 712: "HOST_MEMORY_ALREADY_REGISTERED",
    713: "HOST_MEMORY_NOT_REGISTERED", 714: "HARDWARE_STACK_ERROR", 715: "ILLEGAL_INSTRUCTION",
    716: "MISALIGNED_ADDRESS", 717: "INVALID_ADDRESS_SPACE", 718: "INVALID_PC",
    719: "LAUNCH_FAILED", 720: "COOPERATIVE_LAUNCH_TOO_LARGE", 721: "TENSOR_MEMORY_LEAK",
    800: "NOT_PERMITTED", 801: "NOT_SUPPORTED", 802: "SYSTEM_NOT_READY",
    803: "SYSTEM_DRIVER_MISMATCH", 804: "COMPAT_NOT_SUPPORTED_ON_DEVICE",
    805: "MPS_CONNECTION_FAILED", 806: "MPS_RPC_FAILURE", 807: "MPS_SERVER_NOT_READY",
    808: "MPS_MAX_CLIENTS_REACHED", 809: "MPS_MAX_CONNECTIONS_REACHED",
    810: "MPS_CLIENT_TERMINATED", 811: "CDP_NOT_SUPPORTED", 812: "CDP_VERSION_MISMATCH",
    900: "STREAM_CAPTURE_UNSUPPORTED", 901: "STREAM_CAPTURE_INVALIDATED",
    902: "STREAM_CAPTURE_MERGE", 903: "STREAM_CAPTURE_UNMATCHED", 904: "STREAM_CAPTURE_UNJOINED",
    905: "STREAM_CAPTURE_ISOLATION", 906: "STREAM_CAPTURE_IMPLICIT", 907: "CAPTURED_EVENT",
    908: "STREAM_CAPTURE_WRONG_THREAD", 909: "TIMEOUT", 910: "GRAPH_EXEC_UPDATE_FAILURE",
    911: "EXTERNAL_DEVICE", 912: "INVALID_CLUSTER_SIZE", 913: "FUNCTION_NOT_LOADED",
    914: "INVALID_RESOURCE_TYPE", 915: "INVALID_RESOURCE_CONFIGURATION", 916: "KEY_ROTATION",
    999: "UNKNOWN",
}  # fmt: skip


def code_name(code: int) -> str:
    """Return the name of a driver code, or "" if it is not a documented one."""
    return f"CUDA_ERROR_{_NAMES[code]}" if code in _NAMES else ""


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
