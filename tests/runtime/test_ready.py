"""Readiness: waited for by code, asked for by a load balancer."""

from __future__ import annotations

import copy

import anyio
import httpx
import pytest

import ajit
from tests.runtime.sources import ARCH, SAXPY, SYNTAX_ERROR, saxpy

pytestmark = pytest.mark.anyio


async def ask(readiness, method="GET"):
    """The endpoint's answer."""
    transport = httpx.ASGITransport(readiness)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.request(method, "/readyz")


async def test_the_endpoint_says_who_is_missing_and_then_that_all_is_ready(with_device, compiler):
    """503 while a kernel compiles, 200 when it is loaded; for HEAD as well."""
    compiler.hold()
    async with ajit.open_runtime(**with_device) as rt:
        readiness = ajit.ready(rt, [SAXPY])
        await compiler.wait_started()
        early = await ask(readiness)
        assert not readiness.is_ready
        compiler.let_go()
        report = await readiness.wait()
        late, head = await ask(readiness), await ask(readiness, "HEAD")
        rt.kernel_nowait(SAXPY)

    assert (early.status_code, early.headers["retry-after"]) == (503, "1")
    body = early.json()
    assert (body["ready"], body["ranks"]) == (False, 1)
    assert [(one["rank"], one["standing"]) for one in body["missing"]] == [(0, "working")]
    assert (late.status_code, late.json()["ready"], late.json()["missing"]) == (200, True, [])
    assert (head.status_code, head.content) == (200, b"")
    assert (report.compiled, readiness.status().ready) == (1, True)


async def test_a_kernel_that_fails_keeps_a_server_from_being_ready(with_device):
    """The rank names itself, with the compiler's error; the endpoint says so, too."""
    async with ajit.open_runtime(**with_device) as rt:
        readiness = ajit.ready(rt, [SAXPY, SYNTAX_ERROR])
        with pytest.raises(ajit.RanksNotReady, match="broken") as caught:
            await readiness.wait()
        answer = await ask(readiness)
        rt.kernel_nowait(SAXPY)

    assert [rank for rank, _ in caught.value.missing] == [0]
    assert answer.status_code == 503
    assert "broken" in answer.json()["missing"][0]["detail"]


@pytest.mark.allow_blocking("the test writes the record")
async def test_a_record_that_cannot_be_read_is_what_waiting_raises(options, tmp_path):
    """And what the endpoint says."""
    path = tmp_path / "used.ajit"
    path.touch()
    path.chmod(0o666)
    async with ajit.open_runtime(**options) as rt:
        readiness = ajit.ready(rt, ajit.replay(path))
        with pytest.raises(ajit.RecordError):
            await readiness.wait()
        answer = await ask(readiness)

    assert answer.status_code == 503
    assert "other users may write" in answer.json()["error"]


async def test_closing_the_runtime_ends_the_wait(options, compiler):
    """As for every request."""
    compiler.hold()
    raised = []

    async def wait(readiness):
        try:
            await readiness.wait()
        except ajit.AjitError as exc:
            raised.append(type(exc))

    async with anyio.create_task_group() as group:
        async with ajit.open_runtime(**options) as rt:
            readiness = ajit.ready(rt, [saxpy(arch=ARCH)])
            group.start_soon(wait, readiness)
            await compiler.wait_started()
        compiler.let_go()

    assert raised == [ajit.RuntimeClosed]
    with pytest.raises(ajit.RuntimeClosed):
        ajit.ready(rt, [SAXPY])


async def test_it_serves_alone_as_well(options):
    """As the whole application of a server: it takes part in its life."""
    said = []
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive():
        return messages.pop(0)

    async def send(message):
        said.append(message["type"])

    async with ajit.open_runtime(**options) as rt:
        await ajit.ready(rt, [])({"type": "lifespan"}, receive, send)

    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_it_comes_from_its_function_only():
    """Constructed by hand, it says so."""
    with pytest.raises(TypeError, match=r"ajit\.ready"):
        ajit.Readiness()


async def test_a_late_rank_makes_all_ready_after_it_was_missed(options):
    """Waiting again is safe: what was made ready stays so."""
    options = {**options, "patience_seconds": 0.5}
    work = [
        ajit.replay("/nothing/there", ranks=2, rank=rank, start_seconds=0.1) for rank in range(2)
    ]
    async with ajit.open_runtime(**options) as first:
        readiness = ajit.ready(first, work[0])
        with pytest.raises(ajit.RanksNotReady, match="rank 1 is missing"):
            await readiness.wait()
        missed = await ask(readiness)
        async with ajit.open_runtime(**options) as second:
            other = ajit.ready(second, work[1])
            with anyio.fail_after(60):
                await other.wait()
                while not readiness.is_ready:  # noqa: ASYNC110  # its thread looks now and then
                    await anyio.sleep(0.01)
            await readiness.wait()

    assert missed.status_code == 503
    assert {one["rank"]: one["standing"] for one in missed.json()["missing"]}[1] == "missing"
    assert readiness.status().missing == ()


async def test_waiting_again_waits_for_news(options):
    """A loop that waits once more after each failure does not spin, and misses nothing."""
    options = {**options, "patience_seconds": 3.0}
    work = [
        ajit.replay("/nothing/there", ranks=2, rank=rank, start_seconds=0.1) for rank in range(2)
    ]
    async with ajit.open_runtime(**options) as first:
        readiness = ajit.ready(first, work[0])
        with anyio.fail_after(60), pytest.raises(ajit.RanksNotReady, match="rank 1 is missing"):
            await readiness.wait()
        with anyio.move_on_after(1.0) as waited:
            await readiness.wait()
        with anyio.fail_after(60), pytest.raises(ajit.RanksNotReady, match="rank 1 is missing"):
            await readiness.wait()  # told again, after the patience
        async with ajit.open_runtime(**options) as second:
            ajit.ready(second, work[1])
            failures = 0
            with anyio.fail_after(60):
                while not readiness.is_ready:
                    try:
                        await readiness.wait()
                    except ajit.RanksNotReady:
                        failures += 1

    assert waited.cancelled_caught, "it was told the same thing at once"
    assert failures <= 20, "it spins"


async def test_closing_ends_a_wait_for_news(options):
    """It was told of a missing rank before, and nothing more would have been told for long."""
    options = {**options, "patience_seconds": 3.0}
    work = ajit.replay("/nothing/there", ranks=2, rank=0, start_seconds=0.1)
    raised, begun = [], anyio.Event()

    async def wait_again(readiness):
        begun.set()
        try:
            await readiness.wait()
        except ajit.AjitError as exc:
            raised.append(type(exc))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group, ajit.open_runtime(**options) as rt:
            readiness = ajit.ready(rt, work)
            with pytest.raises(ajit.RanksNotReady):
                await readiness.wait()
            services = readiness._group._services
            services.settings = patient = copy.copy(services.settings)
            object.__setattr__(patient, "patience_seconds", 300.0)
            group.start_soon(wait_again, readiness)
            await begun.wait()

    assert raised == [ajit.RuntimeClosed]


async def test_a_rank_whose_warm_up_is_cancelled_tells_the_others(options, compiler):
    """Its runtime goes on, and beats; no other waits for it."""
    compiler.hold()
    kernel = saxpy(arch=ARCH)
    works = [ajit.replay("/nothing/there", ranks=2, rank=rank) for rank in range(2)]
    async with ajit.open_runtime(**options) as first, ajit.open_runtime(**options) as second:
        readiness = ajit.ready(first, works[0])
        async with anyio.create_task_group() as group:
            group.start_soon(second.warmup, [works[1], kernel])
            await compiler.wait_started()
            group.cancel_scope.cancel()
        compiler.let_go()
        with anyio.fail_after(60), pytest.raises(ajit.RanksNotReady, match="broken off") as caught:
            await readiness.wait()

    assert [rank for rank, _ in caught.value.missing] == [1]


async def test_a_rank_that_is_started_twice_is_the_later_one(options):
    """The earlier one is told, and posts nothing any more."""
    work = [ajit.replay("/nothing/there", ranks=2, rank=0) for _ in range(2)]
    async with ajit.open_runtime(**options) as first, ajit.open_runtime(**options) as second:
        early = ajit.ready(first, work[0])
        with anyio.fail_after(60):
            while early.status().ranks[0].standing == "working":  # noqa: ASYNC110  # its thread
                await anyio.sleep(0.01)
        late = ajit.ready(second, work[1])
        with anyio.fail_after(60), pytest.raises(ajit.RanksNotReady, match="is this rank"):
            await early.wait()

        assert late.status().ranks[0].standing != "ousted"


@pytest.mark.allow_blocking("the test changes the cache")
async def test_a_cache_that_cannot_be_written_makes_ranks_alone(options, cache_dir):
    """They cannot tell each other anything: that is said, and not waited for."""
    async with ajit.open_runtime(**options):
        pass
    cache_file = cache_dir / "locks" / "ra"
    cache_file.touch()
    options = {**options, "patience_seconds": 0.5}
    async with ajit.open_runtime(**options) as rt:
        readiness = ajit.ready(rt, ajit.replay("/nothing/there", ranks=2, rank=1))
        with anyio.fail_after(60), pytest.raises(ajit.RanksNotReady, match=r"rank 1.* is alone"):
            await readiness.wait()
