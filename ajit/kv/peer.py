"""Who is at the other end of a socket, and when that process is gone.

The kernel says who connected (SO_PEERCRED), and gives a descriptor of that process (SO_PEERPIDFD,
Linux 6.5; before that by its id). It becomes readable when the process has ended, all of its
threads and descriptors included, and so everything that it had a device copy. The end of a
connection is not that: a process that is killed closes its sockets before its devices, and one that
lives may have a copy on its way.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

import anyio

__all__ = ["Peer", "peer_of"]

SO_PEERPIDFD = 77
"""As the kernel's generic socket.h has it; Python has no name for it yet."""

_CREDENTIALS = struct.Struct("iII")
"""struct ucred: process, user, group."""


@dataclass(slots=True)
class Peer:
    """A process at the other end of a socket.

    Attributes:
        pid: Its id; 0 if it is in a pid namespace that cannot be seen from here.
        uid: Its user.
        descriptor: Becomes readable when it has ended; -1 once closed.
    """

    pid: int
    uid: int
    descriptor: int

    async def wait_gone(self) -> None:
        """Wait until the process has ended. Cancelling only leaves."""
        await anyio.wait_readable(self.descriptor)

    def close(self) -> None:
        """Give the descriptor back; twice is nothing."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def peer_of(connection: socket.socket) -> Peer:
    """Return who connected a socket.

    Raises:
        OSError: It has ended already, or the kernel cannot say when it ends.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    try:
        descriptor = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:
        if pid <= 0:
            raise
        # Its id may be another process's by now only if it has ended: then nothing is lost, for
        # its connection has, too, and the other one is waited for.
        descriptor = os.pidfd_open(pid)
    os.set_inheritable(descriptor, False)  # noqa: FBT003  # its signature
    return Peer(pid, uid, descriptor)
