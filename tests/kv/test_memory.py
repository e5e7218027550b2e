"""Slabs: mapped by others, sealed, without a name, and gone with their last user."""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

import pytest

from ajit._system.numa import memory_nodes
from ajit.kv import memory
from ajit.kv.memory import Slab, SlabError

SIZE = 64 << 10


def mappings() -> int:
    """How often this process maps a slab."""
    return Path("/proc/self/maps").read_text().count(memory.NAME)


def test_what_one_writes_the_other_reads():
    """Two mappings of one memory."""
    one = Slab.make(SIZE)
    other = Slab.map(os.dup(one.descriptor), SIZE)
    one.view[100:105] = b"hello"

    assert bytes(other.view[100:105]) == b"hello"
    one.close()
    assert bytes(other.view[100:105]) == b"hello"
    other.close()


def test_nothing_has_a_name():
    """A process that is killed leaves no file."""
    before = set(os.listdir("/dev/shm"))  # noqa: PTH208
    slab = Slab.make(SIZE)

    assert set(os.listdir("/dev/shm")) == before  # noqa: PTH208
    slab.close()


def test_its_size_is_sealed():
    """A process that cuts it cannot kill one that maps it."""
    slab = Slab.make(SIZE)
    for size in (0, SIZE * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(slab.descriptor, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(slab.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    slab.close()


def unsealed(size: int) -> int:
    """A memfd that another may cut."""
    descriptor = os.memfd_create("other", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    return descriptor


@pytest.mark.parametrize(
    "make",
    [
        lambda: unsealed(SIZE),
        lambda: os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC),
        lambda: os.pipe2(os.O_CLOEXEC)[0],
        lambda: os.dup(Slab.make(SIZE * 2).descriptor),
    ],
    ids=["not sealed", "a device", "a pipe", "another size"],
)
def test_what_is_no_slab_is_not_mapped(make):
    """And its descriptor is closed."""
    descriptor = make()
    with pytest.raises(SlabError):
        Slab.map(descriptor, SIZE)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_the_mapping_ends_with_its_last_view():
    """A chunk that is being copied keeps its memory."""
    before = mappings()
    slab = Slab.make(SIZE)
    view = slab.view[:10]
    slab.close()
    slab.close()

    assert bytes(view) == b"\0" * 10
    del slab
    view.release()
    assert mappings() == before


def test_memory_that_is_not_there_is_an_error():
    """And no signal, when it is touched later."""
    before = mappings()
    with pytest.raises(SlabError, match="no memory for a slab"):
        Slab.make(1 << 60)

    assert mappings() == before


def test_without_huge_pages_there_are_others(monkeypatch):
    """They are asked for first."""
    asked = []
    make = os.memfd_create

    def refused(name, flags):
        asked.append(flags & os.MFD_HUGETLB)
        if asked[-1]:
            raise OSError(22, "no huge pages here")
        return make(name, flags)

    monkeypatch.setattr(memory.os, "memfd_create", refused)
    slab = Slab.make(memory.HUGE_PAGE_BYTES)

    assert asked == [os.MFD_HUGETLB, 0]
    assert not slab.huge
    slab.close()


@pytest.mark.skipif(0 not in memory_nodes(), reason="the kernel has no NUMA")
def test_memory_comes_from_the_node_that_was_asked_for():
    """The policy is there before the pages are."""
    slab = Slab.make(SIZE, node=0)
    lines = Path("/proc/self/numa_maps").read_text().splitlines()

    assert slab.numa_problem == ""
    assert any("prefer" in line and f"memfd:{memory.NAME}" in line for line in lines)
    slab.close()


def test_memory_of_no_such_node_is_of_any_node(monkeypatch):
    """So is it where a container forbids to ask; the slab says why."""
    slab = Slab.make(SIZE, node=1000)

    assert "mbind" in slab.numa_problem
    slab.view[:4] = b"here"
    slab.close()


def test_an_own_mapping_is_not_inherited():
    """A child that runs another program has no descriptor of it."""
    slab = Slab.make(mmap.PAGESIZE)

    assert not os.get_inheritable(slab.descriptor)
    slab.close()
