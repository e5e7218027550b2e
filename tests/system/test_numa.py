"""NUMA: memory that is asked of a node comes from it, and what is not there is said."""

from __future__ import annotations

import ctypes
import errno
import mmap
import re
from pathlib import Path

import pytest

from ajit._system import numa
from ajit.errors import UsageError


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a machine's sysfs of nodes, and of PCI devices: (vendor, class, node)."""

    def make(nodes="", devices=()):
        (tmp_path / "has_memory").write_text(nodes + "\n")
        monkeypatch.setattr(numa, "_NODES", tmp_path / "has_memory")
        monkeypatch.setattr(numa, "_PCI", tmp_path / "pci")
        for index, values in enumerate(devices):
            folder = tmp_path / "pci" / f"0000:{index:02x}:00.0"
            folder.mkdir(parents=True)
            for name, value in zip(("vendor", "class", "numa_node"), values, strict=True):
                (folder / name).write_text(f"{value}\n")

    return make


@pytest.mark.skipif(0 not in numa.memory_nodes(), reason="the kernel has no NUMA")
def test_memory_prefers_the_node_that_it_was_asked_of():
    """The real call, and what the kernel says of the mapping afterwards."""
    mapped = mmap.mmap(-1, 1 << 20)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    numa.prefer_node(address, len(mapped), 0)
    mapped[:4] = b"here"

    line = re.search(rf"^{address:x} (\S+)", Path("/proc/self/numa_maps").read_text(), re.MULTILINE)
    assert line[1] in ("prefer:0", "prefer=relative:0", "prefer (many):0")


@pytest.mark.parametrize("node", [1000, 63, 64])
def test_a_node_that_is_not_there_is_an_error_of_the_kernel(node):
    """Whatever its number."""
    mapped = mmap.mmap(-1, 1 << 20)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    with pytest.raises(OSError, match="mbind") as caught:
        numa.prefer_node(address, len(mapped), node)

    assert caught.value.errno in (errno.EINVAL, errno.ENOSYS)


def test_a_machine_without_a_number_of_the_call_says_so(monkeypatch):
    """Nothing is called by a wrong number."""
    monkeypatch.setattr(numa.platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="not implemented"):
        numa.prefer_node(0, 4096, 0)


@pytest.mark.parametrize(
    ("said", "expected"),
    [("", ()), ("0", (0,)), ("0-1", (0, 1)), ("0,2-4,8", (0, 2, 3, 4, 8))],
)
def test_the_nodes_with_memory_are_listed(machine, said, expected):
    """As the kernel writes lists."""
    machine(said)

    assert expected == numa.memory_nodes()


GPU_0, GPU_1 = ("0x10de", "0x030200", 0), ("0x10de", "0x030200", 1)
UNKNOWN, NETWORK = ("0x10de", "0x030200", -1), ("0x10de", "0x020000", 0)


@pytest.mark.parametrize(
    ("nodes", "devices", "asked", "node", "says"),
    [
        ("0-1", [], None, None, "not asked for"),
        ("", [], 0, None, "the kernel has no NUMA"),
        ("0", [], 0, None, "there is one node"),
        ("0", [GPU_0], "device", None, "there is one node"),
        ("0-1", [], 1, 1, "node 1"),
        ("0-1", [GPU_1, GPU_1, NETWORK], "device", 1, "node 1"),
        ("0-1", [GPU_0, GPU_1], "device", None, "no node is that of all GPUs"),
        ("0-1", [UNKNOWN], "device", None, "no node is that of all GPUs"),
        ("0-1", [], "device", None, "no node is that of all GPUs"),
    ],
)
def test_a_node_is_chosen_where_that_makes_a_difference(machine, nodes, devices, asked, node, says):
    """And there is always something to tell."""
    machine(nodes, devices)

    assert (node, says) == numa.choose_node(asked)


def test_asking_for_a_node_that_is_not_there_is_refused(machine):
    """With those that are."""
    machine("0-1")
    with pytest.raises(UsageError, match=r"NUMA node 2 is not there.*\(0, 1\)"):
        numa.choose_node(2)


def test_the_node_of_a_pci_device_is_read(machine):
    """By its address, in either case; None where the machine does not know."""
    machine("0-1", [GPU_0, GPU_1, UNKNOWN])

    assert numa.node_of_pci("0000:01:00.0") == 1
    assert numa.node_of_pci("0000:02:00.0") is None
    assert numa.node_of_pci("0000:0A:00.0") is None
