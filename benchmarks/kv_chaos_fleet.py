"""Processes of `benchmarks.kv_chaos`, and their faults. Each wait has a limit and a name."""

from __future__ import annotations

import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ajit.kv.framing import framed
from ajit.kv.messages import VERSION, Find, Hello, Ping, encode
from benchmarks.harness import ROOT
from benchmarks.kv_chaos_engine import COUNTS, HANG_SECONDS, LAYOUT, PROGRESS

WAIT_SECONDS = 60.0
"""Longest wait for what has to come: a process that starts or ends, on a busy machine."""
STOP_SECONDS = 2.5
"""Longest time that a process is stopped. Above the patience of clients, below their limits."""
CHUNKS = 24
"""In memory: less than the prompts have together."""
SLAB_CHUNKS = 4


class StuckError(Exception):
    """Something that was waited for did not come; the text says what."""


def wait_for(what: str, condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """Wait until a condition holds, and return what it gave.

    Raises:
        StuckError: It did not, in time.
    """
    until = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > until:
            raise StuckError(f"waited {seconds:g} s for {what}")
        time.sleep(0.01)
    return found


def start(what: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start a program, and wait for its first line."""
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    stdout = process.stdout
    assert stdout is not None
    try:
        wait_for(f"{what} to start", lambda: select.select([stdout], [], [], 0)[0])
        said = os.read(stdout.fileno(), 1000)
    except BaseException:
        end(process)
        raise
    if not said:
        code = end(process)
        raise StuckError(f"{what} ended at its start with {code}")
    return process


def end(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> int:
    """End a process, and return what it ended with."""
    process.send_signal(signal.SIGCONT)
    process.send_signal(number)
    try:
        process.wait(WAIT_SECONDS)
    except subprocess.TimeoutExpired as exc:
        process.kill()
        process.wait(WAIT_SECONDS)
        raise StuckError(f"a process did not end by signal {number}") from exc
    finally:
        if process.stdout is not None:
            process.stdout.close()
    return process.returncode


@dataclass
class Engine:
    """One engine that runs."""

    process: subprocess.Popen[bytes]
    progress: Path
    moved: float = field(default_factory=time.monotonic)
    seen: bytes = b""

    def counts(self) -> dict[str, int]:
        """What it has done so far."""
        return dict(zip(COUNTS, PROGRESS.unpack(self.progress.read_bytes()), strict=True))


@dataclass
class Fleet:
    """A service and its engines.

    Attributes:
        path: The socket.
        chance: What is random here.
        counts: What the engines that have ended did.
        faults: What was done to them.
        wrong: What engines ended with, if not by this program.
    """

    path: Path
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    engines: list[Engine] = field(default_factory=list)
    _started: int = 0

    def open(self, engines: int) -> None:
        """Start all."""
        self.service = self._serve()
        for _ in range(engines):
            self.engines.append(self._engine())

    def _serve(self) -> subprocess.Popen[bytes]:
        size = LAYOUT.chunk_bytes
        options = [f"--limit={CHUNKS * size}", f"--slab={SLAB_CHUNKS * size}", "--reserve-time=5s"]
        arguments = ["ajit", "kv", "serve", "--socket", str(self.path), *options]
        return start("the service", arguments)

    def _engine(self) -> Engine:
        self._started += 1
        progress = self.path.parent / f"progress{self._started}"
        progress.write_bytes(bytes(PROGRESS.size))
        seed = str(self.chance.randrange(10**9))
        arguments = ["benchmarks.kv_chaos_engine", str(self.path), str(progress), seed]
        return Engine(start("an engine", arguments), progress)

    # --- what is done to them ---

    def step(self) -> None:
        """Do something to one of them."""
        faults = (
            self.kill_engine, self.kill_engine, self.end_engine, self.stop, self.stop,
            self.garbage, self.garbage, self.flood, self.restart, self.restart_with_little,
        )  # fmt: skip
        fault = self.chance.choice(faults)
        self.faults[fault.__name__.replace("_", " ")] += 1
        fault()
        self.look()

    def look(self) -> None:
        """See that all of them live, and that engines go on."""
        if self.service.poll() is not None:
            self.wrong.append(f"the service ended with {self.service.returncode}")
            self.service = self._serve()
        for index, engine in enumerate(self.engines):
            code, seen = engine.process.poll(), engine.progress.read_bytes()
            if seen != engine.seen:
                engine.seen, engine.moved = seen, time.monotonic()
            if code is not None:
                self.wrong.append(f"an engine ended with {code}")
            elif time.monotonic() - engine.moved > HANG_SECONDS + STOP_SECONDS:
                self.wrong.append(f"an engine did nothing for {HANG_SECONDS:g} s")
            else:
                continue
            self._replace(index, signal.SIGKILL)

    def _replace(self, index: int, number: int) -> int:
        engine = self.engines[index]
        code = end(engine.process, number)
        self.counts.update(engine.counts())
        engine.progress.unlink()
        self.engines[index] = self._engine()
        return code

    def kill_engine(self) -> None:
        """As the kernel does when memory is short."""
        self._replace(self.chance.randrange(len(self.engines)), signal.SIGKILL)

    def end_engine(self) -> None:
        """As a supervisor does."""
        code = self._replace(self.chance.randrange(len(self.engines)), signal.SIGTERM)
        if code:
            self.wrong.append(f"an engine that was asked to end ended with {code}")

    def stop(self) -> None:
        """Stop one for a while."""
        processes = [self.service, *(engine.process for engine in self.engines)]
        stopped = self.chance.choice(processes)
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.random() ** 2 * STOP_SECONDS)
        stopped.send_signal(signal.SIGCONT)

    def garbage(self) -> None:
        """Bytes that mean nothing: at once, after a hello, or cut short, with the end to come."""
        noise = self.chance.randbytes(self.chance.randrange(1, 300))
        hello = framed(encode(Hello(VERSION)))
        ping = framed(encode(Ping(1)))
        self._say(
            self.chance.choice([noise, hello + noise, hello + framed(noise), hello + ping[:-1]])
        )

    def flood(self) -> None:
        """More lookups than are answered, and no answer is read."""
        find = framed(encode(Find(1, 0, bytes(16 * 100), 60.0)))
        self._say(framed(encode(Hello(VERSION))) + find + framed(encode(Ping(2))) * 5000)

    def _say(self, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(1.0)
            try:
                raw.connect(str(self.path))
                raw.sendall(data)
            except OSError:
                return  # it was ended for what it said, or the service is away

    def restart(self) -> None:
        """Kill the service; engines go on without one for a while."""
        end(self.service)
        time.sleep(self.chance.random() / 2)
        self.service = self._serve()

    def restart_with_little(self) -> None:
        """The same, and the next one gets less memory or fewer descriptors than it may have."""
        self.restart()
        slabs = SLAB_CHUNKS * LAYOUT.chunk_bytes
        little = (resource.RLIMIT_FSIZE, slabs // 2), (resource.RLIMIT_NOFILE, 24)
        kind, value = self.chance.choice(little)
        resource.prlimit(self.service.pid, kind, (value, value))
