"""Engines and services that are killed and stopped at random, with little memory: no wrong byte.

Several real engines (`engine_main`) store and load prompts that share their beginnings, in memory
for a part of them. They, and the service, are killed, stopped and started again; another client
sends garbage. At the end all that was held is back.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import anyio
import pytest

from ajit.kv import connect
from tests.kv.engine_main import WRONG
from tests.kv.raw import raw_client
from tests.kv.store_support import CHUNK_BYTES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ENGINES = 3
SECONDS = 15.0
CHUNKS = 16


def start(*arguments) -> subprocess.Popen[str]:
    """Start a program, and wait until it says something."""
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    return process


def serve(path) -> subprocess.Popen[str]:
    """Start a service."""
    limit, slab = CHUNKS * CHUNK_BYTES, 4 * CHUNK_BYTES
    return start("ajit", "kv", "serve", "--socket", path, f"--limit={limit}", f"--slab={slab}")


def end(process) -> int:
    """Kill a process, and return what it ended with."""
    process.kill()
    process.wait()
    process.stdout.close()
    return process.returncode


def step(chance, path, service, engines):
    """Do something to one of them; the service that runs afterwards."""
    what = chance.choice(["kill", "kill", "kill", "stop", "garbage", "garbage", "restart"])
    if what == "kill":
        number = chance.randrange(len(engines))
        assert end(engines[number]) != WRONG
        engines[number] = start("tests.kv.engine_main", path, chance.randrange(10**6))
    elif what == "stop":
        stopped = chance.choice([service, *engines])
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(chance.random() / 2)
        stopped.send_signal(signal.SIGCONT)
    elif what == "garbage":
        anyio.run(garbage, path, chance.randbytes(chance.randrange(1, 300)))
    elif chance.random() < 0.5:
        end(service)
        return serve(path)
    return service


async def garbage(path, data) -> None:
    """Send bytes that mean nothing."""
    try:
        async with raw_client(path, greets=False) as raw:
            await raw.stream.send(data)
    except OSError:
        return


async def what_is_left(path) -> dict[str, int | float | str]:
    """What the service holds when the ends of all others have been seen."""
    async with connect(path, timeout=30) as store:
        values = await store.service_statistics()
        with anyio.move_on_after(30):
            while values["owners"] > 1:  # this client is one
                await anyio.sleep(0.01)
                values = await store.service_statistics()
        return values


def test_no_wrong_byte_and_no_leak_whatever_is_killed(tmp_path, capsys):
    """And engines that live go on."""
    seed = random.randrange(10**6)  # noqa: S311 - no secret
    chance = random.Random(seed)  # noqa: S311 - no secret
    tmp_path.chmod(0o700)
    path = tmp_path / "kv.sock"
    service = serve(path)
    engines = [start("tests.kv.engine_main", path, number) for number in range(ENGINES)]
    steps, until = 0, time.monotonic() + SECONDS
    try:
        while time.monotonic() < until:
            service = step(chance, path, service, engines)
            steps += 1
            assert all(engine.poll() is None for engine in engines), f"seed {seed}"
            time.sleep(chance.random() / 10)
        before = anyio.run(ask, path)
        codes = [end(engine) for engine in engines]
        left = anyio.run(what_is_left, path)
    finally:
        for process in (service, *engines):
            if process.poll() is None:
                end(process)

    with capsys.disabled():
        done = {name: before[name] for name in ("chunks_found", "chunks_stored", "chunks_evicted")}
        sys.stdout.write(f"\n  seed {seed}: {steps} steps; of the last service: {done}\n")
    assert codes == [-signal.SIGKILL] * ENGINES
    held = ("owners", "leases", "reservations", "lingering")
    assert {name: left[name] for name in held} == dict(zip(held, (1, 0, 0, 0), strict=True))
    assert left["used_bytes"] == left["chunks"] * CHUNK_BYTES
    assert before["chunks_found"] > 0


async def ask(path) -> dict[str, int | float | str]:
    """What the last service has counted, once engines use it."""
    async with connect(path, timeout=30) as store:
        values = await store.service_statistics()
        with anyio.move_on_after(60):
            while not values["chunks_found"]:
                await anyio.sleep(0.05)
                values = await store.service_statistics()
        return values
