"""Mounts of the FUSE file system of `server_main`, which tests stop, break, kill and start anew.

A hung mount hangs each process that touches it, one that is being killed included. So `Mount.close`
never touches it: it aborts the kernel's connection, which answers every call with an error, kills
the server and unmounts lazily.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

__all__ = ["Mount", "why_no_fuse"]

SERVER = Path(__file__).with_name("server_main.py")
CONNECTIONS = Path("/sys/fs/fuse/connections")
MOUNT_SECONDS = 30.0
POLL_SECONDS = 0.01


def why_no_fuse() -> str:
    """Return why nothing can be mounted here, or ""."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "no /dev/fuse that this user may open"
    if shutil.which("fusermount3") is None and os.geteuid() != 0:
        return "no fusermount3 (Debian: fuse3)"
    asked = subprocess.run(
        [sys.executable, "-c", "import mfusepy"], check=False, capture_output=True, text=True
    )
    if asked.returncode != 0:
        return f"no FUSE for Python: {asked.stderr.strip().splitlines()[-1]} (Debian: fuse3)"
    return ""


class Mount:
    """A mounted file system over a directory beside it. A context that leaves nothing behind.

    Args:
        place: A directory of its own; the mount is in ``place / "mnt"``.

    Attributes:
        path: Where it is mounted.
        backing: What it shows; can be looked at while the mount hangs.
    """

    def __init__(self, place: Path) -> None:
        self.path, self.backing = place / "mnt", place / "backing"
        self._control = place / "control"
        for path in (self.path, self.backing, self._control):
            path.mkdir(parents=True)
        self._server: subprocess.Popen[bytes] | None = None
        self._connection = ""
        self._replaced: list[tuple[subprocess.Popen[bytes], str]] = []
        self.serve()

    def serve(self) -> None:
        """Start the server and wait until it is mounted."""
        before = self.path.stat().st_dev
        command = [sys.executable, str(SERVER), str(self.backing), str(self.path)]
        with (self._control / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [*command, str(self._control)], stdin=subprocess.DEVNULL, stderr=log
            )
        deadline = time.monotonic() + MOUNT_SECONDS
        while (device := self.path.stat().st_dev) == before:
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the FUSE server did not mount")
            time.sleep(POLL_SECONDS)
        self._connection = str(os.minor(device))
        # The kernel asks at the first close whether the server has anything to do at one. Asked
        # while the server is stopped, it waits for the answer even in a process that is killed.
        primer = self.path / "primer"
        primer.write_text("")
        primer.unlink()

    def stop(self) -> None:
        """Stop the server: from now on no call is answered."""
        self._signal(signal.SIGSTOP)
        assert self._server is not None
        os.waitid(os.P_PID, self._server.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """Let it go on: it answers all calls that wait."""
        self._signal(signal.SIGCONT)

    def hang(self, text: str) -> None:
        """Do not answer calls on paths that have a text in them, until `answer`."""
        self._tell("hang", text)

    def fail(self, code: int) -> None:
        """Answer every call with an error, until `answer`."""
        self._tell("fail", str(code))

    def answer(self) -> None:
        """End `hang` and `fail`."""
        for name in ("hang", "fail"):
            (self._control / name).unlink(missing_ok=True)

    def unmount(self) -> None:
        """Let the path lead nowhere; calls that a stopped server has stay unanswered."""
        assert self._server is not None
        self._replaced.append((self._server, self._connection))
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)

    def close(self) -> None:
        """Kill the server, and unmount. Whatever waits gets an error."""
        servers = [*self._replaced, (self._server, self._connection)]
        for server, connection in servers:
            with contextlib.suppress(OSError):  # where that file system is mounted, too
                (CONNECTIONS / connection / "abort").write_text("1")
            if server is not None:
                server.kill()
                server.wait()
        self._replaced.clear()
        subprocess.run(["umount", "--lazy", str(self.path)], check=False, capture_output=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self._server is not None
        self._server.send_signal(number)

    def _tell(self, name: str, text: str) -> None:
        written = self._control / f"{name}.new"
        written.write_text(text)
        written.rename(self._control / name)
