"""Cache directories, small file systems, and other processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ajit._cache.entries.disk import DiskStore
from ajit._cache.files.directory import CacheDirectory, open_cache_directory
from ajit._cache.leases.lock_file import current_process
from ajit._cache.leases.table import LeaseTable
from tests.cache.helpers import poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]


class PeerProcess:
    """Another process, see ``peer_main.py``. Its answers are read with a deadline."""

    def __init__(self, path: Path, backend: str, user: int | None, group: str) -> None:
        command = [sys.executable, "-m", "tests.cache.peer_main", str(path), backend]
        if user is not None:
            command += [str(user), group]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._pending: list[dict[str, Any]] = []

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def tell(self, *words: str) -> None:
        """Give a command, and do not wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()

    def ask(self, *words: str) -> dict[str, Any]:
        """Give a command and return its answer."""
        self.tell(*words)
        return self.hear(words[0])

    def hear(self, did: str) -> dict[str, Any]:
        """Return the next answer of that kind. The test's own time limit is the deadline."""
        for answer in self._pending:
            if answer["did"] == did:
                self._pending.remove(answer)
                return answer
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = json.loads(line)
            if answer["did"] == did:
                return answer
            self._pending.append(answer)
        pytest.fail(f"the peer ended instead of answering to {did!r}")

    def kill(self) -> None:
        """Kill it, and see it dead."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Kill it if it lives, and close the pipes."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the cache is to be."""
    return tmp_path / "cache"


@pytest.fixture
def directory(path: Path) -> CacheDirectory:
    """A new cache directory."""
    return open_cache_directory(path)


@pytest.fixture
def store(directory: CacheDirectory) -> DiskStore:
    """The entries of the cache directory."""
    return DiskStore(directory)


@pytest.fixture
def table(directory: CacheDirectory) -> Iterator[LeaseTable]:
    """The leases of the cache directory. The test releases what it takes; nothing stays."""
    table = LeaseTable(directory)
    yield table
    left = table.statistics()
    assert (left.held, left.waiting) == (0, 0)
    # Threads of abandoned waits end when the peers, which are dead by now, have lost their locks.
    poll(lambda: not any(place[0] == directory.identity for place in current_process().lock_files))


@pytest.fixture
def start_peer(path: Path) -> Iterator[Callable[..., PeerProcess]]:
    """Start other processes on the same cache."""
    peers: list[PeerProcess] = []

    def start(
        backend: str = "asyncio",
        *,
        on: Path | None = None,
        user: int | None = None,
        shared_group: str = "",
    ) -> PeerProcess:
        peer = PeerProcess(on or path, backend, user, shared_group)
        peers.append(peer)
        peer.hear("start")
        return peer

    yield start
    for peer in peers:
        peer.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, which is soon full."""
    yield from _mounted(tmp_path / "small", "size=256k,mode=0700")


@pytest.fixture
def read_only_mount(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A file system that can be made read-only."""
    mounts = _mounted(tmp_path / "mount", "size=1m,mode=0700")
    place = next(mounts)

    def make_read_only() -> Path:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        return place

    make_read_only.place = place
    yield make_read_only
    next(mounts, None)


def _mounted(place: Path, options: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "ajit-test", str(place)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a file system here: {done.stderr.strip()}")
    yield place
    # Lazily: descriptors of the test may still be open on it.
    subprocess.run(["umount", "--lazy", str(place)], check=True)
