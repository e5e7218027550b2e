"""A program that confines itself and then tries to leave; prints what came of each try as JSON.

Usage: program ALLOWED_DIR OWN_DIR OUTSIDE_DIR PORT ABSTRACT_NAME
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from ajit._compile.worker.landlock import confine

allowed, own, outside = map(Path, sys.argv[1:4])
PORT, NAME = int(sys.argv[4]), f"\0{sys.argv[5]}"
SYSTEM = ["/bin", "/lib", "/lib64", "/usr/bin", "/usr/lib", "/etc/ld.so.cache", "/proc/self"]
PARENT = os.getppid()


def connect(family: int, address: object) -> None:
    """Reach a socket that listens."""
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.connect(address)


def io_uring() -> None:
    """The other way to sockets, and to files."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(425, 4, ctypes.create_string_buffer(120)) < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")


TRIES = {
    "read what is allowed": (allowed / "file").read_text,
    "write in its folder": lambda: (own / "file").write_text("mine"),
    "make and remove there": lambda: ((own / "d").mkdir(), (own / "d").rmdir()),
    "write to nothing": lambda: Path("/dev/null").write_text("x"),
    "run a program": lambda: subprocess.run(["true"], check=True),
    "read a password file": lambda: Path("/etc/passwd").read_text(),
    "read by a link of its own": lambda: (
        (own / "link").symlink_to("/etc/passwd"),
        (own / "link").read_text(),
    ),
    "read by a program": lambda: subprocess.run(["cat", "/etc/passwd"], check=True),
    "read the parent's environment": lambda: Path(f"/proc/{PARENT}/environ").read_bytes(),
    "write to what is allowed": lambda: (allowed / "file").write_text("x"),
    "write elsewhere": lambda: (outside / "new").write_text("x"),
    "empty a file elsewhere": lambda: os.truncate(outside / "file", 0),
    "remove a file elsewhere": (outside / "file").unlink,
    "take a file from elsewhere": lambda: (outside / "file").rename(own / "taken"),
    "list elsewhere": lambda: list(outside.iterdir()),
    "run from elsewhere": lambda: subprocess.run([outside / "program"], check=True),
    "connect": lambda: connect(socket.AF_INET, ("127.0.0.1", PORT)),
    "connect by name": lambda: connect(socket.AF_UNIX, NAME),
    "send a datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
    "make a ring": io_uring,
}


def outcome(name: str) -> str:
    """Whether a try came through, or was refused."""
    try:
        TRIES[name]()
    except (PermissionError, subprocess.CalledProcessError):
        return "refused"
    except OSError as exc:
        return str(exc)
    return "done"


if __name__ == "__main__":
    confine([*SYSTEM, str(allowed), "/nonexistent"], [str(own), "/dev/null"])
    print(json.dumps({name: outcome(name) for name in TRIES}))  # noqa: T201  # the test reads it
