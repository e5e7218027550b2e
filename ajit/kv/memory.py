"""Slabs: memory that several processes map, and that no name leads to.

A slab is a memfd: a file without a name that lives as long as a descriptor or a mapping of it, in
any process. So a process that is killed leaves nothing behind, and nothing is ever in ``/dev/shm``.
Others get its descriptor over a socket (SCM_RIGHTS) and map it. Its size is sealed: none can cut it
and so kill the others by SIGBUS when they touch what was there. Its pages are allocated when it is
made, so memory that is not there is an error then, and not a signal later.

Huge pages are used where the machine has some reserved (``vm.nr_hugepages``), else the kernel is
asked to merge pages, which it does if ``shmem_enabled`` allows it.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from contextlib import suppress

from ajit._system.numa import prefer_node

__all__ = ["Slab", "SlabError"]

NAME = "ajit-kv"
"""Shown in ``/proc/<pid>/maps``; it names nothing that can be opened."""

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""The size stays, and so do these seals."""
NEEDED_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW

HUGE_PAGE_BYTES = 2 << 20


class SlabError(OSError):
    """Memory could not be had, or is not what it should be. Nothing of it is left."""


class Slab:
    """One slab, mapped into this process. Make it with `Slab.make` or `Slab.map`.

    Attributes:
        descriptor: Of the memfd, to be sent to others; -1 where it is another process's.
        size_bytes: Its size.
        view: All of it.
        huge: Whether it has huge pages for certain.
        numa_problem: Why its memory is of any node though one was asked for; else "".
    """

    __slots__ = ("_closed", "_map", "descriptor", "huge", "numa_problem", "size_bytes", "view")

    def __init__(self, descriptor: int, mapped: mmap.mmap, *, huge: bool = False) -> None:
        self.descriptor, self._map, self.huge = descriptor, mapped, huge
        self.numa_problem = ""
        self.size_bytes = len(mapped)
        self.view = memoryview(mapped)
        self._closed = False

    @classmethod
    def make(cls, size_bytes: int, *, huge: bool = True, node: int | None = None) -> Slab:
        """Make a slab. Blocks while the kernel clears its pages, about 0.2 s for a GiB.

        Args:
            size_bytes: Of the slab.
            huge: Whether to use huge pages if there are any.
            node: NUMA node that its memory is to come from, if that has any left.

        Raises:
            SlabError: There is not so much memory, or no descriptor.
        """
        if huge and size_bytes % HUGE_PAGE_BYTES == 0:
            with suppress(SlabError):
                return cls._make(size_bytes, os.MFD_HUGETLB, node)
        return cls._make(size_bytes, 0, node)

    @classmethod
    def _make(cls, size_bytes: int, flags: int, node: int | None) -> Slab:
        try:
            descriptor = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
        except OSError as exc:
            raise SlabError(exc.errno, f"no memfd: {exc.strerror}") from exc
        try:
            os.ftruncate(descriptor, size_bytes)
            mapped = mmap.mmap(descriptor, size_bytes)
            if not flags:
                with suppress(OSError):  # kernels without transparent huge pages
                    mapped.madvise(mmap.MADV_HUGEPAGE)
            problem = "" if node is None else _prefer(mapped, node)
            os.posix_fallocate(descriptor, 0, size_bytes)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
        except OSError as exc:
            os.close(descriptor)
            reason = f"no memory for a slab of {size_bytes} bytes: {exc.strerror}"
            raise SlabError(exc.errno, reason) from exc
        slab = cls(descriptor, mapped, huge=bool(flags))
        slab.numa_problem = problem
        return slab

    @classmethod
    def map(cls, descriptor: int, size_bytes: int) -> Slab:
        """Map a slab of another process. The descriptor is closed: Python's mmap has its own.

        Raises:
            SlabError: It is no memfd of that size, or its size is not sealed.
        """
        try:
            _check_sealed(descriptor, size_bytes)
            return cls(-1, mmap.mmap(descriptor, size_bytes))
        except (OSError, ValueError) as exc:
            raise SlabError(f"a slab cannot be mapped: {exc}") from exc
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Give the descriptor back, and the mapping as soon as nothing refers to it. May repeat."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        self._closed = True
        self.unmap_if_closed()

    def unmap_if_closed(self) -> None:
        """End the mapping of a closed slab, now that something that referred to it does not."""
        if self._closed:
            with suppress(BufferError):  # views of chunks are out; the last one ends the mapping
                self.view.release()
                self._map.close()


def _prefer(mapped: mmap.mmap, node: int) -> str:
    """Ask for memory of a node, before there is any; returns why not. A container may forbid it."""
    first = ctypes.c_char.from_buffer(mapped)
    try:
        prefer_node(ctypes.addressof(first), len(mapped), node)
    except OSError as exc:
        return str(exc.strerror or exc)
    return ""


def _check_sealed(descriptor: int, size_bytes: int) -> None:
    seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)  # no memfd has none, and that is an error
    if seals & NEEDED_SEALS != NEEDED_SEALS:
        raise OSError(0, "its size is not sealed")
    if os.fstat(descriptor).st_size != size_bytes:
        raise OSError(0, f"it has not {size_bytes} bytes")
