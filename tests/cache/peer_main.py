"""A process that does as it is told with leases and entries: one command a line, answers as JSON.

Each wait runs in a thread with its own event loop, so a peer can wait for several keys and
still be spoken to. Every answer carries ``at``, the system-wide monotonic clock in seconds.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from functools import partial

import anyio

from ajit._cache.entries.disk import DiskStore, Found
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases import lock_waiters, posix
from ajit._cache.leases.permits import CompilePermit, CompilePermits
from ajit._cache.leases.table import Busy, Glance, Lease, LeaseTable
from tests.cache.artifacts import a_job, an_artifact

_output = threading.Lock()
_polls = []


def answer(**facts: object) -> None:
    """Print one answer."""
    with _output:
        sys.stdout.write(json.dumps({**facts, "at": time.monotonic()}) + "\n")
        sys.stdout.flush()


class Peer:
    """The state of a peer, and a method for each command."""

    def __init__(self, path: str, backend: str, shared_group: str = "") -> None:
        self.backend = backend
        self.directory = open_cache_directory(path, shared_group=shared_group)
        self.table = LeaseTable(self.directory)
        self.leases: dict[str, Lease] = {}
        self.granted: list[CompilePermit] = []

    def claims(self, patience: str) -> None:
        """Hold leases by claims from now on, and have locks that keep no other process out.

        So it is with the locks of a file system that stay on one node: this process is on another.
        """
        self.directory.lease_kind = "directory"
        self.directory.patience_seconds = float(patience)
        posix.take = posix.take_now = lambda _fd, _kind: True
        answer(did="claims")

    def acquire(self, key: str) -> None:
        """Try for a lease."""
        outcome = self.table.try_acquire(key, "peer")
        if isinstance(outcome, Lease):
            self.leases[key] = outcome
        holder = outcome.holder.pid if isinstance(outcome, Busy) and outcome.holder else None
        answer(did="acquire", outcome=type(outcome).__name__, holder=holder)

    def wait(self, key: str) -> None:
        """Wait for a lease in a new thread with its own loop."""
        self._start_waiting(key, None)

    def glance(self, key: str) -> None:
        """Wait as `wait` does, and glance at the entry when the lock comes."""
        self._start_waiting(key, partial(self._found, key))

    def stare(self, key: str) -> None:
        """Wait as `glance` does, and never be done with looking."""
        self._start_waiting(key, self._hang)

    def _start_waiting(self, key: str, glance: Glance | None) -> None:
        run = partial(anyio.run, self._wait, key, glance, backend=self.backend)
        threading.Thread(target=run).start()

    async def _wait(self, key: str, glance: Glance | None) -> None:
        with self.table.wait(key, "peer", glance) as waiting:
            answer(did="queued", key=key)
            outcome = await waiting.wait()
        won = time.monotonic()
        if isinstance(outcome, Lease):
            self.leases[key] = outcome
        answer(did="wait", key=key, outcome=type(outcome).__name__, won=won)

    def _found(self, key: str) -> Found | None:
        lookup = DiskStore(self.directory).read(key)
        return lookup if isinstance(lookup, Found) else None

    def _hang(self) -> None:
        answer(did="hang")
        threading.Event().wait()

    def polls(self) -> None:
        """Say how many waits have gone on by polling."""
        answer(did="polls", count=len(_polls))

    def beat(self, key: str, phase: str) -> None:
        """Beat."""
        self.leases[key].beat(phase)
        answer(did="beat")

    def published(self, key: str) -> None:
        """Tell that something was published."""
        self.leases[key].published = True
        answer(did="published")

    def release(self, key: str) -> None:
        """Release a lease."""
        begun = time.monotonic()
        self.leases.pop(key).release()
        answer(did="release", begun=begun)

    def discard(self, key: str) -> None:
        """Release a lease and remove its lock file."""
        answer(did="discard", gone=self.leases.pop(key).discard())

    def count(self, count: str, patience: str) -> None:
        """Have permits to ask for."""
        self.permits = CompilePermits(self.directory, int(count), patience_seconds=float(patience))
        answer(did="count")

    def admit(self) -> None:
        """Ask for a permit once."""
        permit = self.permits.try_admit(a_job())
        if permit is not None:
            self.granted.append(permit)
        holds = permit is not None and permit.lease is not None
        answer(did="admit", granted=permit is not None, holds=holds)

    def publish(self, key: str, data: str) -> None:
        """Publish an artifact."""
        result = DiskStore(self.directory).publish(an_artifact(key, data.encode()))
        answer(did="publish", outcome=type(result).__name__, reason=getattr(result, "reason", ""))

    def publish_and_hang(self, key: str) -> None:
        """Stop in the middle of publishing, when the bytes are written and have no name yet."""
        # In this process only, which is killed here.
        os.link = lambda *_args, **_kwargs: self._hang()
        self.publish(key, "never")

    def read(self, key: str) -> None:
        """Read an entry."""
        lookup = DiskStore(self.directory).read(key)
        answer(did="read", outcome=type(lookup).__name__, reason=getattr(lookup, "reason", ""))

    def access(self) -> None:
        """Say what can be done with the directory."""
        answer(did="access", access=self.directory.access, problem=self.directory.problem)


def main() -> None:
    """Do as told, until the input ends."""
    if len(sys.argv) > 3:
        # Not before: another user may not be allowed to read this Python or this checkout.
        os.setgroups([])
        os.setgid(int(sys.argv[3]))
        os.setuid(int(sys.argv[3]))
    peer = Peer(*sys.argv[1:3], *sys.argv[4:])
    poll = lock_waiters._poll

    def counted(slot: object, kind: int) -> bool:
        _polls.append(slot)
        return poll(slot, kind)

    lock_waiters._poll = counted
    answer(did="start", pid=os.getpid())
    for line in sys.stdin:
        verb, *arguments = line.split()
        if verb == "end":
            # Without the interpreter's shutdown: threads may still be blocked in locks.
            os._exit(0)
        getattr(peer, verb)(*arguments)


if __name__ == "__main__":
    main()
