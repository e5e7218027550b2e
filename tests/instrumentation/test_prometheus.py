"""Prometheus: what a scrape of a real runtime says, by the client library's own parser."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx
import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

import ajit
from ajit.instrumentation import prometheus
from ajit.instrumentation.metrics import COUNTERS, GAUGES, HISTOGRAMS, metrics_table
from tests.runtime.sources import ARCH, SAXPY, SYNTAX_ERROR, saxpy

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "metrics.md"


@pytest.fixture
def registry():
    """A registry of this test's own."""
    return prometheus_client.CollectorRegistry()


async def scrape(registry) -> dict[str, float]:
    """Scrape over ASGI, as a server is scraped; return each line's value by its name and labels."""
    transport = httpx.ASGITransport(prometheus.asgi_app(registry))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        answer = await client.get("/metrics/")
    assert answer.status_code == 200
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_scrape_tells_what_the_runtime_did(with_device, registry):
    """Requests by answer, compiles with their durations, the cache and the device."""
    async with ajit.open_runtime(**with_device) as rt, prometheus.instrument(rt, registry=registry):
        await rt.kernel(SAXPY)
        await rt.kernel(SAXPY)
        with pytest.raises(ajit.CompileError):
            await rt.kernel(SYNTAX_ERROR)
    found = await scrape(registry)

    assert found["ajit_requests_total{answer=memory}"] == 1
    assert found["ajit_requests_total{answer=compiled}"] == 1
    assert found["ajit_requests_total{answer=error}"] == 1
    assert found["ajit_cache_lookups_total{result=missing}"] == 2
    assert found["ajit_compile_duration_seconds_count{compiler=host}"] == 1
    assert found["ajit_compile_duration_seconds_sum{compiler=host}"] > 0
    assert found["ajit_compile_failure_duration_seconds_count"] == 1
    assert found["ajit_module_load_duration_seconds_count"] == 1
    assert found["ajit_key_duration_seconds_count"] == 2
    assert found["ajit_device_lost"] == 0


async def test_gauges_are_taken_back_and_counters_stay(options, registry):
    """A runtime that is closed has no slots any more; what it has done was done."""
    async with ajit.open_runtime(**options) as rt:
        async with prometheus.instrument(rt, registry=registry):
            await rt.compile(SAXPY, arch=ARCH)
            during = await scrape(registry)
        after = await scrape(registry)

    assert (during["ajit_compile_slots"], after["ajit_compile_slots"]) == (2, 0)
    assert after["ajit_requests_total{answer=compiled}"] == 1


async def test_two_runtimes_of_a_process_are_added_up(options, registry):
    """A registry has each name once."""
    async with (
        ajit.open_runtime(**options) as one,
        ajit.open_runtime(**options) as two,
        prometheus.instrument(one, registry=registry),
        prometheus.instrument(two, registry=registry),
    ):
        await one.compile(saxpy(1), arch=ARCH)
        await two.compile(saxpy(1), arch=ARCH)
        slots = (await scrape(registry))["ajit_compile_slots"]
    found = await scrape(registry)

    assert slots == 4
    assert found["ajit_requests_total{answer=compiled}"] == 1
    assert found["ajit_requests_total{answer=disk}"] == 1


async def test_runtime_that_was_closed_first_does_no_harm(options, registry):
    """As where a server's parts end in another order."""
    rt = await ajit.start_runtime(**options)
    async with prometheus.instrument(rt, registry=registry):
        await rt.aclose()

    assert (await scrape(registry))["ajit_compile_slots"] == 0


WORKER = """
import os, sys, json
import anyio
import ajit
from ajit.instrumentation import prometheus
from tests.runtime.sources import ARCH, saxpy

async def main():
    async with ajit.open_runtime(**json.loads(sys.argv[1])) as rt, prometheus.instrument(rt):
        await rt.compile(saxpy(int(sys.argv[2])), arch=ARCH)
        if sys.argv[3:]:
            print(*sys.argv[3:], flush=True)
            await anyio.sleep_forever()

anyio.run(main)
"""


async def test_processes_of_a_server_are_scraped_as_one(options, tmp_path, monkeypatch):
    """By the library's own mode for several processes, which takes no collectors."""
    folder = tmp_path / "multiproc"
    folder.mkdir()
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    for number in (1, 2):
        command = [sys.executable, "-c", WORKER, json.dumps(options), str(number)]
        await anyio.run_process(command, env=environ, cwd=ROOT)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))

    found = await scrape(None)

    assert found["ajit_requests_total{answer=compiled}"] == 2
    assert found["ajit_compile_duration_seconds_count{compiler=host}"] == 2


def _kill(process):
    if process.returncode is None:
        process.kill()


async def test_gauges_of_a_process_that_was_killed_are_not_served(options, tmp_path, monkeypatch):
    """What it has counted stays, and what the others are at."""
    folder = tmp_path / "multiproc"
    folder.mkdir()
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    both = []
    async with AsyncExitStack() as stack:
        for number in (1, 2):
            command = [sys.executable, "-c", WORKER, json.dumps(options), str(number), "stays"]
            process = await anyio.open_process(command, env=environ, cwd=ROOT, stderr=None)
            both.append(await stack.enter_async_context(process))
            stack.callback(_kill, process)
            with anyio.fail_after(60):
                assert (await process.stdout.receive()).startswith(b"stays")
        before = await scrape(None)
        both[0].kill()
        await both[0].wait()
        after = await scrape(None)
    counted = "ajit_compile_duration_seconds_count{compiler=host}"

    assert [4, 2] == [found["ajit_compile_slots"] for found in (before, after)]
    assert [2, 2] == [found[counted] for found in (before, after)]


def test_names_and_units_are_prometheus_own():
    """Counters end in _total, durations in seconds, sizes in bytes; no name comes twice."""
    names = [each.name for each in (*COUNTERS, *GAUGES, *HISTOGRAMS)]

    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"ajit_[a-z_]+", name) for name in names)
    assert all(each.name.endswith("_total") for each in COUNTERS)
    assert not any(each.name.endswith("_total") for each in GAUGES)
    assert all(each.name.endswith("_seconds") for each in HISTOGRAMS)
    assert not any("millis" in name or "_mb" in name or "_ms" in name for name in names)


def test_docs_have_the_table():
    """The page and the code cannot differ."""
    assert metrics_table() in DOCS.read_text(encoding="utf-8")


async def test_error_of_the_block_comes_out_as_it_is(options, registry):
    """Not as a group: a server's `except` around its lifespan finds it."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(KeyError):
            async with prometheus.instrument(rt, registry=registry):
                raise KeyError("what the server raised")
