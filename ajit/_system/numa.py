"""Which NUMA node memory comes from: asked for before its pages are touched.

A GPU copies slower from the memory of the other socket. The kernel takes pages from the node of the
thread that touches them first, which for a helper thread is any. `mbind` says which node a mapping
prefers; where that has no memory left, others serve. It is called by its number: libnuma need not
be there. Nothing here imports a driver: the node of a GPU stands in sysfs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from pathlib import Path
from typing import Final, Literal, TypeAlias

from ajit.errors import UsageError

__all__ = ["NumaNode", "choose_node", "memory_nodes", "node_of_gpus", "node_of_pci", "prefer_node"]

NumaNode: TypeAlias = "int | Literal['device'] | None"
"""A node; ``device``: that of the GPUs; None: no matter which."""

MPOL_PREFERRED: Final = 1
"""From ``linux/mempolicy.h``: that node first, then any."""
_MBIND: Final = {"x86_64": 237, "aarch64": 235}
_NODES = Path("/sys/devices/system/node/has_memory")
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA, _DISPLAY = "0x10de", "0x03"
"""Vendor, and how the class of a display or 3D controller begins."""


def memory_nodes() -> tuple[int, ...]:
    """Return the nodes that have memory; none where the kernel has no NUMA."""
    found: list[int] = []
    for part in _read(_NODES).split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found += range(int(first), int(last or first) + 1)
    return tuple(found)


def node_of_pci(address: str) -> int | None:
    """Return the node of a PCI device, such as ``0000:3b:00.0``; None if the machine says none."""
    node = _read(_PCI / address.lower() / "numa_node")
    return int(node) if node.isdigit() else None  # -1: it does not know


def node_of_gpus() -> int | None:
    """Return the node of NVIDIA's GPUs; None if there are none, or on several nodes."""
    try:
        devices = sorted(_PCI.iterdir())
    except OSError:
        return None
    gpus = [device for device in devices if _is_gpu(device)]
    nodes = {node_of_pci(device.name) for device in gpus}
    return nodes.pop() if len(nodes) == 1 else None


def choose_node(asked: NumaNode) -> tuple[int | None, str]:
    """Return the node that memory has to prefer, and what there is to tell about it. Reads sysfs.

    None where it makes no difference, or is not known.

    Raises:
        UsageError: There is no such node.
    """
    nodes = memory_nodes()
    if asked is None:
        return None, "not asked for"
    if not nodes:
        return None, "the kernel has no NUMA"
    if asked != "device" and asked not in nodes:
        raise UsageError(f"NUMA node {asked} is not there, or has no memory; there are {nodes}")
    if len(nodes) == 1:
        return None, "there is one node"
    node = node_of_gpus() if asked == "device" else asked
    if node is None:
        return None, "no node is that of all GPUs"
    return node, f"node {node}"


def prefer_node(address: int, nbytes: int, node: int) -> None:
    """Let pages of a mapping come from a node, if they are not there yet.

    Args:
        address: Of the mapping, the beginning of a page.
        nbytes: Of it.
        node: That is preferred.

    Raises:
        OSError: There is no such node, this is not allowed here (containers), or not known.
    """
    number = _MBIND.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"mbind: {os.strerror(errno.ENOSYS)}")
    words = node // 64 + 1
    mask = (ctypes.c_uint64 * words)()
    mask[node // 64] = 1 << node % 64
    # The kernel takes one bit less than it is told.
    args = (address, nbytes, MPOL_PREFERRED, ctypes.addressof(mask), 64 * words + 1, 0)
    if _syscall(number, *map(ctypes.c_ulong, args)):
        code = ctypes.get_errno()
        raise OSError(code, f"mbind: {os.strerror(code)}")


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def _is_gpu(device: Path) -> bool:
    return _read(device / "vendor") == _NVIDIA and _read(device / "class").startswith(_DISPLAY)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
