"""Opening the first runtime of a process: the event loop goes on while everything is imported."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import anyio
import anyio.to_thread
import pytest

import ajit
from tests.runtime.sources import ARCH, SAXPY

PROGRAM = """
import json, sys, threading
import anyio

class Imports:
    "Notes each module that is looked for, and whether the loop's thread looks for it."
    seen = []

    def find_spec(self, name, path=None, target=None):
        Imports.seen.append((name, threading.get_ident() == loop))

settings = json.loads(sys.argv[2])

async def main():
    import ajit
    await anyio.to_thread.run_sync(lambda: None)  # anyio has its own things to import
    sys.meta_path.insert(0, Imports())
    async with ajit.open_runtime(**settings) as rt:
        print(json.dumps(Imports.seen))

loop = threading.get_ident()
anyio.run(main, backend=sys.argv[1])
"""

PUBLIC = {
    "ajit._printable",
    "ajit._runtime",
    "ajit._runtime.open",
    "ajit._system",
    "ajit._system.in_thread",
    "ajit._system.loop",
    "ajit._system.own_task",
    "ajit._system.patched",
    "ajit._system.threads",
    "ajit._system.uncancelled",
    "ajit._system.warn",
    "ajit.errors",
}
"""The modules that `ajit.open_runtime` is found through; they import next to nothing."""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("device", ["none", "cpu"])
def test_first_runtime_imports_nothing_in_the_loops_thread(backend, device, options):
    """Importing takes 0.1 to 0.2 s, in which every other task of a server would wait."""
    settings = json.dumps({**options, "device": device})
    command = [sys.executable, "-c", PROGRAM, backend, settings]

    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    looked_for = [tuple(pair) for pair in json.loads(ran.stdout)]

    in_loop = {name for name, by_loop in looked_for if by_loop}
    in_threads = {name for name, by_loop in looked_for if not by_loop}
    assert {"ajit._runtime.opening", "ajit._resolve.services"} <= in_threads
    assert ("ajit._gpu.device" in in_threads) == (device == "cpu")
    assert in_loop <= PUBLIC


@pytest.mark.anyio
@pytest.mark.parametrize("device", ["none", "cpu"])
async def test_runtime_opens_and_closes_without_a_thread_of_the_loops_own(options, device, caplog):
    """Those 40 are shared with the whole process, and may all hang in other code's calls."""
    caplog.set_level(logging.INFO, "ajit")  # so that there is a thread to be ended
    threads = anyio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(threads.total_tokens))]
    for borrower in borrowers:
        threads.acquire_on_behalf_of_nowait(borrower)

    async def release(after_seconds):
        await anyio.sleep(after_seconds)
        while borrowers:
            threads.release_on_behalf_of(borrowers.pop())

    async with anyio.create_task_group() as group:
        group.start_soon(release, 20)  # for closing is shielded, and would hang for ever
        async with ajit.open_runtime(**options | {"device": device}) as rt:
            await rt.compile(SAXPY, arch=ARCH)
        hung = not borrowers
        group.cancel_scope.cancel()
    await release(0)

    assert not hung
    assert "compiled by" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize("secret", [{"hmac_key": "short"}, {"hmac_key_file": "/no/such/file"}])
async def test_secret_that_cannot_be_used_is_told_before_a_device_is_opened(options, secret):
    """Nothing was started, as for every other setting; no machine has this device."""
    with pytest.raises(ajit.SettingsError) as caught:
        async with ajit.open_runtime(**options | {"device": "cuda:9999"} | secret):
            pass

    assert caught.value.name in secret
