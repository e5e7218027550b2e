"""The trace: a timeline of all processes in one file, which Perfetto opens."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

import ajit
from ajit import events, kv
from ajit._gpu.completion.state import DONE, TicketState
from ajit._runtime import trace as trace_module
from ajit._runtime import trace_lines as trace_lines_module
from ajit._runtime.trace_lines import TraceLines
from tests.runtime.sources import ARCH, SAXPY, SYNTAX_ERROR, saxpy

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


def lines_of(path: Path) -> list[dict]:
    """What the file has, as a reader of the format takes it: the closing bracket may be missing."""
    return json.loads(path.read_text().rstrip().rstrip(",") + "]")


def slices(lines: list[dict]) -> list[dict]:
    """What has a duration."""
    return [line for line in lines if line["ph"] == "X"]


async def test_what_a_runtime_does_is_on_the_timeline(with_device, tmp_path):
    """Key, compile, load and the whole of the request, with the curves of the pool and device."""
    path = tmp_path / "trace.json"
    async with ajit.open_runtime(trace=path, **with_device) as rt:
        await rt.kernel(SAXPY)
        with pytest.raises(ajit.CompileError):
            await rt.kernel(SYNTAX_ERROR)

    lines = lines_of(path)
    named = {line["name"]: line for line in slices(lines)}
    whole, compiled = named["saxpy"], named["compile saxpy"]
    assert {"key saxpy", "load saxpy", "compile failed broken"} <= set(named)
    assert whole["ts"] <= compiled["ts"] + 1e3
    assert compiled["ts"] + compiled["dur"] <= whole["ts"] + whole["dur"] + 1e3
    assert whole["args"]["tier"] == "compiled"
    assert compiled["args"]["compiler"].startswith("host")
    assert {line["pid"] for line in lines} == {os.getpid()}
    assert {"compiles", "tickets"} <= {line["name"] for line in lines if line["ph"] == "C"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_cancelled_compile_is_on_the_timeline(options, compiler, tmp_path):
    """It has taken a compiler's time."""
    compiler.hold()
    options["abandoned"] = "cancel"
    path = tmp_path / "trace.json"
    async with (
        ajit.open_runtime(trace=path, **options) as rt,
        anyio.create_task_group() as group,
    ):
        group.start_soon(lambda: rt.compile(SAXPY, arch=ARCH))
        await compiler.wait_started()
        group.cancel_scope.cancel()
    compiler.let_go()

    assert "compile cancelled saxpy" in {line["name"] for line in slices(lines_of(path))}


async def test_device_work_is_on_the_timeline(options, tmp_path):
    """Launches and copies by what they do, and KV transfers in rows of their own, step by step."""
    path = tmp_path / "trace.json"
    layout = kv.Layout(layers=3, heads=1, dim=8, dtype="float16", page_tokens=4, chunk_tokens=8)
    async with ajit.open_runtime(trace=path, **options | {"device": "cpu"}) as rt:
        tensors = [await rt.device.alloc(layout.shape(4), "float16") for _ in range(3)]
        await rt.device.upload(bytes(1000))
        async with kv.open_pages(rt.device, layout, tensors) as pages:
            await (await pages.load([bytearray(layout.chunk_bytes)], [2, 3]))
            with pytest.raises(ajit.ArgumentError):
                await pages.load([bytearray(layout.chunk_bytes)], [99, 3])

    lines = lines_of(path)
    rows = {line["tid"]: line["args"]["name"] for line in lines if line["name"] == "thread_name"}
    work = {line["name"]: line for line in slices(lines) if rows[line["tid"]] == "device work"}
    copied = [line for line in slices(lines) if rows[line["tid"]] == "KV transfers"]
    assert any("1000 bytes" in name for name in work)
    assert all(line["args"]["outcome"] == "done" for line in work.values())
    name = f"load pages, {layout.chunk_bytes} bytes"  # opening pages tries some, too
    at = max(index for index, line in enumerate(copied) if line["name"] == name)
    whole, *steps = copied[at : at + 4]
    assert [line["name"] for line in steps] == ["step 0", "step 1", "step 2"]
    for line in steps:
        assert whole["ts"] - 1 <= line["ts"]
        assert line["ts"] + line["dur"] <= whole["ts"] + whole["dur"] + 1


def test_a_flood_of_device_work_is_cut(monkeypatch):
    """A trace of a busy server says how much it leaves out, and begins anew each second."""
    monkeypatch.setattr(trace_lines_module, "MOST_TICKETS", 3)
    lines = TraceLines(7, "host")
    ticket = TicketState(1, "launch saxpy", None)
    ticket.outcome, ticket.nanoseconds = DONE, 1000
    statistics = SimpleNamespace(
        pool=SimpleNamespace(running=0, queued=0), waiting=(),
        device=SimpleNamespace(in_flight=0, live_memory_bytes=0, dispatched=0),
    )  # fmt: skip
    first = [bool(lines.of_ticket(ticket, 1.0)) for _ in range(5)]
    curves = {line["name"]: line["args"] for line in lines.of_statistics(statistics, 1.0)}

    assert first == [True, True, True, False, False]
    assert curves["device work left out"] == {"tickets": 2}
    assert lines.of_ticket(ticket, 2.0)


def test_slices_of_one_row_do_not_overlap():
    """Those that do are in rows of their own, of which each has its kind's name."""
    lines = TraceLines(7, "host")
    made: list[dict] = []
    for begun, ended in [(0.0, 5.0), (1.0, 6.0), (5.5, 7.0), (0.0, 8.0), (7.5, 9.0)]:
        event = events.CompileFinished(
            name="k", key="a", compiler="nvcc", arch="", seconds=ended - begun, size_bytes=1
        )
        object.__setattr__(event, "unix_seconds", ended)
        made += lines.of(event)

    rows = defaultdict(list)
    for line in slices(made):
        rows[line["tid"]].append((line["ts"], line["ts"] + line["dur"]))
    named = [line["tid"] for line in made if line["ph"] == "M"]
    assert sorted(named) == sorted(rows)
    assert len(rows) == 3
    for row in rows.values():
        assert all(one[1] <= next_one[0] for one, next_one in pairwise(sorted(row)))


PROCESS = """
import json, sys
import anyio
import ajit
from tests.runtime.sources import ARCH, saxpy

async def main():
    async with ajit.open_runtime(**json.loads(sys.argv[1])) as rt:
        for number in range(4):
            await rt.compile(saxpy(number), arch=ARCH)

anyio.run(main)
"""


def test_processes_share_a_file(options, tmp_path):
    """Begun at once: one of them makes it, and no line of any is torn or lost."""
    path = tmp_path / "trace.json"
    command = [sys.executable, "-c", PROCESS, json.dumps(options)]
    environ = {**os.environ, "AJIT_TRACE": str(path)}
    processes = [subprocess.Popen(command, cwd=ROOT, env=environ) for _ in range(3)]
    ended = [process.wait(timeout=200) for process in processes]

    lines = lines_of(path)
    whole = [line for line in slices(lines) if line["name"] == "saxpy"]
    assert ended == [0, 0, 0]
    assert {line["pid"] for line in whole} == {process.pid for process in processes}
    assert len(whole) == 12
    assert not list(tmp_path.glob("trace.json.*"))


async def test_trace_that_cannot_be_written_is_a_warning(options, tmp_path):
    """The server serves."""
    with pytest.warns(ajit.AjitWarning, match="the trace .* cannot be written: No such file"):
        async with ajit.open_runtime(trace=tmp_path / "no" / "trace", **options) as rt:
            artifact = await rt.compile(SAXPY, arch=ARCH)

    assert artifact.name == "saxpy"


async def compile_five(**options) -> None:
    """A runtime that finds five kernels."""
    async with ajit.open_runtime(**options) as rt:
        for number in range(5):
            await rt.compile(saxpy(number), arch=ARCH)


async def test_trace_does_not_fill_the_disk(options, tmp_path, monkeypatch):
    """At its limit it ends, and the server goes on."""
    monkeypatch.setattr(trace_module, "MOST_BYTES", 1500)
    path = tmp_path / "trace.json"
    with pytest.warns(ajit.AjitWarning, match="goes no further"):
        await compile_five(trace=path, **options)

    assert path.stat().st_size <= 1500
    assert slices(lines_of(path)) is not None
