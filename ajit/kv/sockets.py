"""Unix sockets that pass descriptors, over anyio's waiting for readiness.

anyio's own streams would do, but for two things: what they receive is inherited by every program
that is started meanwhile, and where a task is cancelled in the moment in which its socket becomes
readable, asyncio's loop reports an error of theirs. Here descriptors are closed on exec from the
first moment. Belongs to one event loop; one task receives and one sends at a time.
"""

from __future__ import annotations

import array
import os
import socket
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["ENDED", "UnixStream", "accept", "connect_unix"]

ENDED = (anyio.EndOfStream, anyio.ClosedResourceError, OSError)
"""How the end of a connection shows."""

MOST_DESCRIPTORS = 65
"""In one message: a health page, or as many slabs as a service sends at once."""

_ANCILLARY_BYTES = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)


class UnixStream:
    """One connection.

    Args:
        raw: The socket; it is this object's from now on.
    """

    def __init__(self, raw: socket.socket) -> None:
        raw.setblocking(False)  # noqa: FBT003  # its signature
        self.raw = raw

    async def receive(self, max_bytes: int) -> bytes:
        """Wait for bytes and return them. Descriptors that come with them are dropped.

        Raises:
            anyio.EndOfStream: The peer sends no more.
            OSError: The connection has ended in another way.
        """
        await checkpoint()  # a peer that never stops sending must not have the loop for itself
        while True:
            try:
                data = self.raw.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self.raw)
                continue
            if not data:
                raise anyio.EndOfStream
            return data

    async def receive_descriptors(self, max_bytes: int) -> tuple[bytes, list[int]]:
        """The same, with the descriptors: the caller's from now on.

        Raises:
            anyio.EndOfStream: The peer sends no more.
            OSError: The connection has ended in another way.
        """
        await checkpoint()
        while True:
            try:
                data, ancillary, _, _ = self.raw.recvmsg(
                    max_bytes, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await anyio.wait_readable(self.raw)
                continue
            descriptors = _descriptors(ancillary)
            if not data:
                for descriptor in descriptors:
                    os.close(descriptor)
                raise anyio.EndOfStream
            return data, descriptors

    async def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send bytes, and descriptors with the first of them. A cancelled one may be sent partly.

        Raises:
            OSError: The connection has ended.
        """
        await checkpoint()
        view, rights = memoryview(data), _rights(descriptors)
        while view:
            try:
                sent = self.raw.sendmsg([view], rights, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                await anyio.wait_writable(self.raw)
                continue
            # They went with the first byte.
            view, rights = view[sent:], []

    def send_eof(self) -> None:
        """Send no more."""
        self.raw.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End the connection: who waits for it gets `anyio.ClosedResourceError`. May repeat."""
        if self.raw.fileno() >= 0:
            anyio.notify_closing(self.raw)
            self.raw.close()


async def connect_unix(path: Path) -> UnixStream:
    """Connect to a socket.

    Raises:
        OSError: None listens there, or it has too many that wait.
    """
    raw = socket.socket(socket.AF_UNIX)
    try:
        raw.setblocking(False)  # noqa: FBT003  # its signature
        raw.connect(str(path))  # the kernel connects at once, or not at all
    except BaseException:
        raw.close()
        raise
    return UnixStream(raw)


async def accept(listener: socket.socket) -> UnixStream:
    """Wait for a connection and return it.

    Raises:
        OSError: It cannot be taken now; later ones may be.
    """
    await checkpoint()  # clients that never stop coming must not have the loop for themselves
    while True:
        try:
            raw, _ = listener.accept()
        except BlockingIOError:
            await anyio.wait_readable(listener)
            continue
        return UnixStream(raw)


def _rights(descriptors: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    packed = array.array("i", descriptors)
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)] if descriptors else []


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
