"""The server: one process that says when it is ready, and answers requests.

A request is a JSON object in a line of standard input, an answer one in a line of standard output:
``{"rms_norm": 64}``, ``{"build": "rope"}``, ``{"peer": "triton", "case": "64"}``; ``{"counts":
true}`` asks for what was compiled, ``{"late": true}`` for the first late compile. It ends with its
input.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import numpy as np

import ajit
from ajit import events
from examples.zero_jit.kernels import GENERAL, RMS_NORM, ROPE
from examples.zero_jit.peers import PEERS

if TYPE_CHECKING:
    from ajit.events import Event

ROWS, THREADS = 8, 32
LATE_SECONDS = 60.0
"""How long a late compile may take to be told. Pretty arbitrary: it is a look at the cache."""


class Noted:
    """What ajit tells, as far as the server passes it on. Called in its event loop."""

    def __init__(self) -> None:
        self.compiles = 0
        self.late: list[events.CompiledLate] = []
        self._told = anyio.Event()

    def __call__(self, event: Event) -> None:
        """Note one event."""
        if isinstance(event, events.CompileStarted):
            self.compiles += 1
        elif isinstance(event, events.CompiledLate):
            self.late.append(event)
            self._told.set()

    async def wait_late(self) -> None:
        """Wait until a late compile was told."""
        with anyio.fail_after(LATE_SECONDS):
            await self._told.wait()


async def serve(record: str, replay: str, peers: list[str]) -> None:
    """Serve until the input ends.

    Args:
        record: Where to write down what is used.
        replay: What to make ready first, and be frozen then; "" for a cold start.
        peers: Whose kernels are used as well.
    """
    noted = Noted()
    async with ajit.open_runtime(device="cpu", record=record, subscribers=[noted]) as rt:
        for name in peers:
            await anyio.to_thread.run_sync(PEERS[name].install, rt)
        say(ready=await _made_ready(rt, replay, peers) if replay else {})
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            say(answer=await _answered(rt, noted, json.loads(line)))
        say(end=_counts(rt, noted))


async def _made_ready(rt: ajit.Runtime, replay: str, peers: list[str]) -> dict[str, Any]:
    """Replay the record; peers that have lists of their own warm these up."""
    report = await ajit.ready(rt, ajit.replay(replay)).wait()
    for name in peers:
        await PEERS[name].warm_up()
    rt.freeze("warn")
    return {
        "total": report.total,
        "from_disk": report.from_disk,
        "compiled": rt.statistics().compiled,
        "failures": [f"{failure.name}: {failure.error}" for failure in report.failures],
        "unresolved": [f"{line.name}: {line.reason}" for line in report.unresolved],
    }


async def _answered(rt: ajit.Runtime, noted: Noted, request: dict[str, Any]) -> dict[str, Any]:
    if "rms_norm" in request:
        return await _normalised(rt, int(request["rms_norm"]))
    if "build" in request:
        folder = await (await rt.build(ROPE)).materialize()
        return {"bytes": (folder / "rope.f32").stat().st_size}  # a local file
    if "peer" in request:
        use = partial(PEERS[request["peer"]].use, request["case"])
        return {"bytes": await anyio.to_thread.run_sync(use)}
    if "counts" in request:
        return _counts(rt, noted)
    await noted.wait_late()
    return {"late": rt.statistics().late, "told": asdict(noted.late[-1])}


def _counts(rt: ajit.Runtime, noted: Noted) -> dict[str, Any]:
    """Return what was compiled or built, as statistics and as events have it."""
    return {"compiled": rt.statistics().compiled, "compiles": noted.compiles}


async def _normalised(rt: ajit.Runtime, width: int) -> dict[str, Any]:
    """Normalise some rows, and compare with NumPy; width 0 means the general kernel."""
    spec = RMS_NORM.spec(RMS_NORM.dispatch(width=width)) if width else GENERAL
    kernel = await rt.kernel(spec, fallback=GENERAL if width else None)
    shape = (ROWS, width or 80)
    host = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    x, y = await rt.device.upload(host), await rt.device.alloc(shape, np.float32)
    await kernel[ROWS, THREADS](y, x, shape[1])
    expected = host / np.sqrt((host * host).mean(axis=1, keepdims=True) + 1e-5)
    right = bool(np.allclose(await rt.device.download(y), expected, atol=1e-5))
    stands_in = kernel.stands_in_for is not None
    return {"kernel": GENERAL.name if stands_in else spec.name, "fallback": stands_in, "ok": right}


def say(**line: Any) -> None:
    """Write one line of output."""
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    anyio.run(partial(serve, order["record"], order["replay"], order["peers"]))
