"""The faults of a chaos run: servers killed and stopped, entries damaged and removed.

Those of small files and of headers are in files of their own. Each fault is one line of the
driver's journal, with the time before and after it, so that the judge can tell which compile it
explains. Only processes that the fleet started are ever signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks.chaos_disk import Disk
from benchmarks.chaos_files import SmallFiles
from benchmarks.chaos_headers import HeaderEdits
from benchmarks.chaos_journal import Journal

__all__ = ["Faults", "Fleet"]

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS = (0.2, 5.0)
COMMAND_SECONDS = 60.0
UNUSED_SECONDS = 600
PRUNED = (0, 3)
"""How a prune may end: it did all, or an entry stays because its lease is held."""
BUSY = 4


class Fleet:
    """The servers: as many as asked for, each replaced when it is killed.

    Args:
        orders: Makes the order of the n-th server that is started.
        environ: The servers' environment.
        count: How many live at a time.
        log: File that gets what they print: what ajit warns of, and tracebacks.
    """

    def __init__(
        self,
        orders: Callable[[int], dict[str, Any]],
        environ: dict[str, str],
        count: int,
        log: BinaryIO,
    ) -> None:
        self._log = log
        self._orders = orders
        self._environ = environ
        self._started = 0
        self._stopped: dict[int, float] = {}
        self.servers = [self._start() for _ in range(count)]

    @property
    def started(self) -> int:
        """How many servers were started in all."""
        return self._started

    def kill(self, place: int) -> int:
        """Kill a server, stopped or not, see it dead, start another; return the killed one's id."""
        server = self.servers[place]
        server.kill()
        server.communicate()
        self._stopped.pop(server.pid, None)
        self.servers[place] = self._start()
        return server.pid

    def stop(self, place: int, seconds: float) -> int | None:
        """Stop a server for a while; None if it is stopped already."""
        pid = self.servers[place].pid
        if pid in self._stopped:
            return None
        os.kill(pid, signal.SIGSTOP)
        self._stopped[pid] = time.monotonic() + seconds
        return pid

    def continue_due(self, *, everybody: bool = False) -> Iterator[int]:
        """Let stopped servers go on whose time is over; yield their ids."""
        for pid, due in list(self._stopped.items()):
            if everybody or time.monotonic() >= due:
                del self._stopped[pid]
                os.kill(pid, signal.SIGCONT)
                yield pid

    def end(self, seconds: float) -> list[int]:
        """Tell all servers to end; return the ids of those that did not, or not well."""
        for server in self.servers:
            assert server.stdin is not None
            server.stdin.close()
        deadline = time.monotonic() + seconds
        return [server.pid for server in self.servers if not _ended_well(server, deadline)]

    def abandon(self) -> None:
        """Kill whatever still runs."""
        for server in self.servers:
            if server.poll() is None:
                server.kill()
                server.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        order = json.dumps(self._orders(self._started))
        self._started += 1
        command = [sys.executable, "-m", "benchmarks.chaos_worker", order]
        return subprocess.Popen(
            command, cwd=ROOT, env=self._environ, stdin=subprocess.PIPE, stderr=self._log
        )


def _ended_well(server: subprocess.Popen[bytes], deadline: float) -> bool:
    try:
        return server.wait(max(0.1, deadline - time.monotonic())) == 0
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
        return False


class Faults:
    """Does one random fault after another.

    Args:
        fleet: The servers.
        cache_dir: Their cache.
        journal: Where each fault is written down.
        rng: Decides.
        environ: Environment of the command that prunes.
        edits: Edits the headers.
        disk: The file system that the cache is on, where one can be made that hangs.
    """

    def __init__(
        self,
        fleet: Fleet,
        cache_dir: Path,
        journal: Journal,
        rng: random.Random,
        environ: dict[str, str],
        edits: HeaderEdits,
        disk: Disk | None,
    ) -> None:
        self._fleet = fleet
        self._cache_dir = cache_dir
        self._journal = journal
        self._rng = rng
        self._environ = environ
        self._files = SmallFiles(cache_dir, journal, rng)
        self._edits = edits
        self.done: dict[str, int] = {}
        # Faults a second, for the whole fleet. Arbitrary: some of each within half a minute, and
        # time for most compiles to end.
        self._kinds: dict[str, tuple[float, Callable[[], bool]]] = {
            "SIGKILL": (0.3, self._kill),
            "SIGSTOP": (0.4, self._stop),
            "compiler killed": (0.3, lambda: self._signal_compiler(signal.SIGKILL)),
            "compiler stopped": (0.1, lambda: self._signal_compiler(signal.SIGSTOP)),
            "truncate": (0.4, self._truncate),
            "bit flip": (0.4, self._flip),
            "swap": (0.2, self._swap),
            "remove": (0.6, self._remove),
            "prune": (0.1, self._prune),
        } | {name: (0.3, each) for name, each in (self._files.kinds | edits.kinds).items()}
        if disk is not None:
            self._kinds["file system hangs"] = (0.06, lambda: disk.hang(journal, rng))
        self.rate = sum(rate for rate, _ in self._kinds.values())

    def one(self) -> None:
        """Do a random fault."""
        names = list(self._kinds)
        (name,) = self._rng.choices(names, [self._kinds[name][0] for name in names])
        if self._kinds[name][1]():
            self.done[name] = self.done.get(name, 0) + 1

    def continue_due(self, *, everybody: bool = False) -> None:
        """Let servers go on that were stopped for long enough, and finish half saved headers."""
        self._edits.finish_due(all_of_them=everybody)
        for pid in self._fleet.continue_due(everybody=everybody):
            self._journal.note("continued", server=pid)

    def _kill(self) -> bool:
        begun = time.monotonic()
        killed = self._fleet.kill(self._rng.randrange(len(self._fleet.servers)))
        self._journal.note("killed", server=killed, begun=begun)
        return True

    def _stop(self) -> bool:
        begun = time.monotonic()
        place = self._rng.randrange(len(self._fleet.servers))
        stopped = self._fleet.stop(place, self._rng.uniform(*STOP_SECONDS))
        if stopped is not None:
            self._journal.note("stopped", server=stopped, begun=begun)
        return stopped is not None

    def _signal_compiler(self, number: signal.Signals) -> bool:
        """Kill a worker of a server, or the compiler that it runs, or stop it for good."""
        begun = time.monotonic()
        server = self._rng.choice(self._fleet.servers).pid
        workers = _children(server)
        # No deeper: a compiler looks after its own children, the script that plays one does not.
        family = workers + [child for worker in workers for child in _children(worker)]
        if not family:
            return False
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(self._rng.choice(family), number)
        what = "compiler_stopped" if number == signal.SIGSTOP else "compiler_killed"
        self._journal.note(what, server=server, begun=begun)
        return True

    def _truncate(self) -> bool:
        return self._damage(lambda path: os.truncate(path, path.stat().st_size // 2))

    def _flip(self) -> bool:
        return self._damage(self._flip_one_bit)

    def _remove(self) -> bool:
        return self._damage(Path.unlink)

    def _swap(self) -> bool:
        entries = self._entries()
        if len(entries) < 2:
            return False
        one, other = self._rng.sample(entries, 2)
        aside = self._cache_dir / "swapped"  # not in tmp/, where it would count as left behind
        with self._noted("swap", [one.stem, other.stem]):
            one.rename(aside)
            other.rename(one)
            aside.rename(other)
        return True

    def _prune(self) -> bool:
        """Let three entries look unused for long, and prune by the command line, as one would."""
        entries = self._entries()
        chosen = self._rng.sample(entries, min(3, len(entries)))
        if not chosen:
            return False
        with self._noted("prune", [path.stem for path in chosen]) as keys:
            for path in chosen:
                then = time.time() - UNUSED_SECONDS
                os.utime(path, (then, then))
            keys.extend(self._pruned())
        return True

    def _pruned(self) -> list[str]:
        """Prune, and return the keys of what was removed."""
        age = f"{UNUSED_SECONDS // 2}s"
        begun = time.monotonic()
        command = [sys.executable, "-m", "ajit", "cache", "prune", "--max-age", age, "--json"]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environ, check=False, timeout=COMMAND_SECONDS,
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode == BUSY and "right now" in done.stderr:
            return []  # the hostile member has the lease of those who remove
        if done.returncode not in PRUNED:
            raise RuntimeError(f"ajit cache prune ended with {done.returncode}: {done.stderr}")
        removed = [Path(each["file"]) for each in json.loads(done.stdout)["removed"]]
        lists = [path.parent.name for path in removed if path.parts[0] == "reads"]
        if lists:
            self._journal.note("damaged", kind="list", keys=lists, begun=begun)
        return [path.stem for path in removed if path.suffix == ".ajit"]

    def _damage(self, damage: Callable[[Path], object]) -> bool:
        entries = self._entries()
        if not entries:
            return False
        path = self._rng.choice(entries)
        with self._noted("damage", [path.stem]), contextlib.suppress(FileNotFoundError):
            damage(path)
        return True

    def _flip_one_bit(self, path: Path) -> None:
        with path.open("r+b") as file:
            place = self._rng.randrange(path.stat().st_size)
            file.seek(place)
            byte = file.read(1)
            file.seek(place)
            file.write(bytes([byte[0] ^ 1 << self._rng.randrange(8)]))

    @contextlib.contextmanager
    def _noted(self, kind: str, keys: list[str]) -> Iterator[list[str]]:
        begun = time.monotonic()
        yield keys
        self._journal.note("damaged", kind=kind, keys=keys, begun=begun)

    def _entries(self) -> list[Path]:
        return sorted(self._cache_dir.glob("entries/*/*.ajit"))


def _children(pid: int) -> list[int]:
    """Children of a process, by the kernel's lists."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # threads come and go
            found += map(int, children.read_text().split())
    return found
