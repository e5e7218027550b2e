"""Metrics of the KV service: the table, the text for Prometheus, and the page for scrapers."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import fields
from functools import partial

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ajit._system.loop import LoopHandle
from ajit.errors import KvError, UsageError
from ajit.kv import (
    ServiceStatistics,
    StoreStatistics,
    chunk_digests,
    connect,
    open_service,
    scraping,
)
from ajit.kv.metrics import CONTENT_TYPE, METRICS, metrics_table, metrics_text
from ajit.kv.scraping import MOST_SCRAPERS, parse_address, serving_metrics
from tests.kv.store_support import CHUNK_BYTES, options, prompt, read_prompt, store_prompt

pytestmark = pytest.mark.anyio

ANY_PORT = ("127.0.0.1", 0)
NO_METRICS = {"store", "owners", "huge_slabs", "numa"}
"""What others say (clients and lingering), or what slabs are like, which is no number."""


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a text, by name and labels, as Prometheus' own parser reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_field_of_the_statistics_is_in_the_table():
    """What is counted can be seen by an operator; a field that is added has to be added here."""
    counted = {
        field.name for each in (ServiceStatistics, StoreStatistics) for field in fields(each)
    }
    shown = {
        name for metric in METRICS for each in metric.samples for name in (each.field, each.minus)
    }

    assert counted - shown == NO_METRICS
    assert shown - counted == {""}


def test_names_and_units_are_those_of_prometheus():
    """A prefix, no unit but seconds and bytes, `_total` for what only grows; each name once."""
    names = [metric.name for metric in METRICS]

    assert len(set(names)) == len(names)
    assert all(name.startswith("ajit_kv_") for name in names)
    assert not [name for name in names if name.endswith(("_ms", "_us", "_mib", "_kib", "_count"))]
    for metric in METRICS:
        for each in metric.samples:
            assert ("_bytes" in metric.name) == ("bytes" in each.field), metric.name
            assert ("_seconds" in metric.name) == ("seconds" in each.field), metric.name
        assert metric.help
        assert metric.help[0].isupper() or metric.help[0] == "1"


async def test_the_text_says_what_happened(path, space):
    """By Prometheus' parser: kinds, labels, and values that follow from what clients did."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_service(options(), path) as service, connect(path, timeout=60) as store:
        await store_prompt(store, space, digests)
        await store_prompt(store, space, digests)  # is here already
        await read_prompt(store, space, digests)
        await read_prompt(store, space, chunk_digests(space, prompt(2, 3)))
        text = metrics_text(await store.service_statistics())
        inside = service.metrics()

    found = parsed(text)
    kinds = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert kinds["ajit_kv_lookups"] == "counter"
    assert kinds["ajit_kv_used_bytes"] == "gauge"
    assert parsed(inside).keys() == found.keys()
    memory = (("tier", "memory"),)
    expected = {
        ("ajit_kv_lookups_total", ()): 2,
        ("ajit_kv_wanted_chunks_total", ()): 5,
        ("ajit_kv_found_chunks_total", memory): 2,
        ("ajit_kv_missed_chunks_total", ()): 3,
        ("ajit_kv_found_bytes_total", memory): 2 * CHUNK_BYTES,
        ("ajit_kv_stored_bytes_total", ()): 2 * CHUNK_BYTES,
        ("ajit_kv_refusals_total", (("reason", "stored"), ("request", "reserve"))): 1,
        ("ajit_kv_refusals_total", (("reason", "busy"), ("request", "reserve"))): 0,
        ("ajit_kv_used_bytes", ()): 2 * CHUNK_BYTES,
        ("ajit_kv_limit_bytes", ()): 8 * CHUNK_BYTES,
        ("ajit_kv_joined_clients_total", ()): 1,
        ("ajit_kv_lost_clients_total", ()): 0,
        ("ajit_kv_memory_problem", ()): 0,
    }
    assert {name: found[name] for name in expected} == expected


def test_a_service_of_another_version_is_shown_as_far_as_it_counts():
    """What it does not say is left out."""
    assert metrics_text({"lookups": 3, "problem": "no memory"}).splitlines() == [
        "# HELP ajit_kv_lookups_total Lookups of a prompt.",
        "# TYPE ajit_kv_lookups_total counter",
        "ajit_kv_lookups_total 3",
        "# HELP ajit_kv_memory_problem 1 if no more memory can be taken though its limit allows.",
        "# TYPE ajit_kv_memory_problem gauge",
        "ajit_kv_memory_problem 1",
    ]


def test_the_table_for_readers_has_every_metric():
    """With its labels."""
    lines = metrics_table().splitlines()

    assert len(lines) == len(METRICS) + 2
    assert "`ajit_kv_refusals_total` | `request`, `reason` |" in metrics_table()


# --- the page ---


def get(url: str, timeout: float = 60) -> tuple[int, str, str]:
    """Status, kind and text of a page."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:  # noqa: S310 - http, of this test
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.headers["Content-Type"], exc.read().decode()


async def fetch(url: str) -> tuple[int, str, str]:
    """The same, beside the loop that is asked."""
    return await anyio.to_thread.run_sync(partial(get, url))


async def test_a_scraper_gets_the_text_and_nothing_else(path):
    """At its path only."""
    async with (
        open_service(options(), path) as service,
        serving_metrics(ANY_PORT, service.values) as url,
    ):
        status, kind, text = await fetch(url)
        lost, _, said = await fetch(url.replace("/metrics", "/"))

    assert (status, kind) == (200, CONTENT_TYPE)
    assert parsed(text)["ajit_kv_clients", ()] == 0
    assert lost == 404
    assert "/metrics" in said


async def test_a_loop_that_hangs_is_said_to(path, monkeypatch):
    """The scraper has an answer, and an operator a reason to look."""
    async with (
        open_service(options(), path) as service,
        serving_metrics(ANY_PORT, service.values) as url,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(scraping, "LOOP_SECONDS", 0.05)
            patch.setattr(LoopHandle, "call_soon", lambda *_: True)
            status, text = await anyio.to_thread.run_sync(_get_without_the_loop, url)
        after, _, _ = await fetch(url)

    assert status == 503
    assert "hangs" in text
    assert after == 200


def _get_without_the_loop(url):
    status, _, text = get(url)
    return status, text


async def test_clients_that_say_nothing_take_bounded_places(path, monkeypatch):
    """And lose them after a while."""
    monkeypatch.setattr(scraping._Page, "timeout", 0.2)
    async with (
        open_service(options(), path) as service,
        serving_metrics(ANY_PORT, service.values) as url,
    ):
        port = int(url.rpartition(":")[2].partition("/")[0])
        ends = await anyio.to_thread.run_sync(_say_nothing, port)
        status = 0
        with anyio.fail_after(60):
            while status != 200:
                try:
                    status, _, _ = await fetch(url)
                except OSError:
                    continue

    assert ends == [b""] * (MOST_SCRAPERS + 3)


def _say_nothing(port: int) -> list[bytes]:
    """What clients get that connect and send nothing."""
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            for _ in range(MOST_SCRAPERS + 3)
        ]
        return [each.recv(1) for each in silent]


async def test_an_address_that_is_taken_is_an_error(path):
    """With the address in it."""
    async with (
        open_service(options(), path) as service,
        serving_metrics(ANY_PORT, service.values) as url,
    ):
        port = int(url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(KvError, match=f"127.0.0.1:{port}.*in use"):
            async with serving_metrics(("127.0.0.1", port), service.values):
                pass


def test_only_this_machine_may_scrape_unless_told_otherwise():
    """And what is no address is no silent default."""
    assert parse_address("127.0.0.1:9464", anywhere=False) == ("127.0.0.1", 9464)
    assert parse_address("[::1]:1", anywhere=False) == ("::1", 1)
    assert parse_address("0.0.0.0:9464", anywhere=True) == ("0.0.0.0", 9464)  # noqa: S104 - parsed
    for text in ("0.0.0.0:9464", "10.1.2.3:9464", "[::]:9464", "9464", "localhost:9464", ":1",
                 "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1"):  # fmt: skip
        with pytest.raises(UsageError):
            parse_address(text, anywhere=False)


async def test_a_thread_that_cannot_be_started_takes_no_place_for_ever(path, monkeypatch):
    """The next scrape is answered."""
    start, refused = scraping.threading.Thread.start, []

    def refuse(thread) -> None:
        if "process_request_thread" in repr(getattr(thread, "_target", "")) and len(refused) < 9:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    async with (
        open_service(options(), path) as service,
        serving_metrics(ANY_PORT, service.values) as url,
    ):
        monkeypatch.setattr(scraping.threading.Thread, "start", refuse)
        for _ in range(9):
            with pytest.raises((urllib.error.URLError, OSError)):
                await anyio.to_thread.run_sync(urllib.request.urlopen, url, None, 60)
        page = await anyio.to_thread.run_sync(urllib.request.urlopen, url, None, 60)
        page.close()

    assert len(refused) == 9 > MOST_SCRAPERS
    assert page.status == 200


async def test_a_scraper_that_sends_slowly_has_its_place_for_a_while_only(path, monkeypatch):
    """A byte now and then is no silence, and would keep others out for ever."""
    monkeypatch.setattr(scraping, "SERVED_SECONDS", 0.2)
    async with (
        open_service(options(), path) as service,
        serving_metrics(ANY_PORT, service.values) as url,
    ):
        port = int(url.split(":")[2].split("/")[0])

        def read_to_the_end() -> bytes:
            with socket.create_connection(("127.0.0.1", port), 60) as slow:
                slow.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
                return slow.recv(1)

        assert await anyio.to_thread.run_sync(read_to_the_end) == b""
