"""The engines that share a KV cache: the toy model on a device, and a service on a socket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest

import ajit
from ajit import kv
from examples.kv_engine.blocks import Blocks, NoRoom
from examples.kv_engine.engine import open_engine
from examples.kv_engine.kernels import specs_of
from examples.kv_engine.model import MODELS
from examples.kv_engine.reference import logits_of
from examples.kv_engine.weights import Weights
from tests.gpu.conftest import faults
from tests.gpu.support import GRACE_SECONDS, ON_GPU, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from examples.kv_engine.engine import Answer, Engine, Use

__all__ = ["faults"]

TOY = MODELS["toy"]
PAGES = 40
PROMPT = list(b"A prompt of some fifty bytes, and no round number of chunks.")
WHOLE = len(PROMPT) // TOY.chunk_tokens * TOY.chunk_tokens
COUNT = 5
ROOM = kv.StoreOptions(limit_bytes=1 << 20, slab_bytes=64 << 10)

pytestmark = [pytest.mark.anyio, pytest.mark.both]


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    """Where a service may listen."""
    tmp_path.chmod(0o700)
    return tmp_path / "kv.sock"


@pytest.fixture
def engine_of(kv_engine_cache: Path, socket: Path):
    """Opens an engine with a runtime of its own, which need not have a service."""

    @asynccontextmanager
    async def opened(pages: int = PAGES, **settings: Any) -> AsyncIterator[Engine]:
        device = "cuda" if ON_GPU else "cpu"
        async with (
            ajit.open_runtime(device=device, cache_dir=kv_engine_cache, **settings) as runtime,
            open_engine(runtime, TOY, pages=pages, socket=socket) as engine,
        ):
            yield engine

    return opened


async def ask(
    engine: Engine, prompt: list[int] = PROMPT, count: int = COUNT, use: Use = "layers"
) -> tuple[np.ndarray, Answer]:
    """An answer with the logits of its tokens; all of it is stored, and the pages are back."""
    logits = []

    async def tell(_token: int, row: np.ndarray) -> None:
        logits.append(row)

    answer = await engine.generate(prompt, count, tell, use=use)
    await settled(engine)
    return np.stack(logits), answer


async def settled(engine: Engine) -> None:
    """Wait until nothing is going on any more; nobody has a page then."""
    await until(lambda: not engine.finishing)

    assert engine.blocks.free == engine.blocks.count


def counted(engine: Engine) -> dict[str, int]:
    """What it has counted of chunks."""
    return dict(engine.prefix.counts)


async def let_copies_serve(engine: Engine) -> None:
    """No kernel copies pages from now on: faults and delays are those of copies.

    Nor is anything made in the background, which a device that does nothing would keep waiting.
    """
    pages = engine.prefix._pages
    await pages.wait_for_kernels()
    await pages.wait_registered()
    pages._kernels._kernels.clear()


# --- the model ----------------------------------------------------------------------------------


async def test_the_logits_are_numpys(engine_of):
    """Of prompts that end in and with a page, and of the tokens that are decoded after them."""
    weights = Weights.seeded(TOY)
    async with engine_of() as engine:
        for length in (1, 4, 17, len(PROMPT)):
            actual, answer = await ask(engine, PROMPT[:length])
            tokens = [*PROMPT[:length], *answer.tokens[:-1]]
            expected = logits_of(TOY, weights, tokens)[-COUNT:]

            np.testing.assert_allclose(actual, expected, atol=2e-5)
            assert answer.tokens == list(actual.argmax(axis=1))


async def test_the_bits_of_a_token_do_not_depend_on_those_computed_beside_it(engine_of):
    """In one step, token by token, and in steps of seven; in pages that lie anywhere."""
    rows = {}
    async with engine_of() as engine:
        decoder = engine.decoder
        for step, pages in ((60, range(15)), (1, range(39, 24, -1)), (7, range(1, 30, 2))):
            sequence = await decoder.open_sequence(PROMPT, 60, list(pages))
            for first in range(0, 60, step):
                await decoder.step(sequence, first, min(step, 60 - first))
            rows[step] = await decoder.logits(sequence)

    assert rows[60].tobytes() == rows[1].tobytes() == rows[7].tobytes()


async def test_requests_at_once_do_not_disturb_each_other(engine_of, socket):
    """Each gets the logits that it gets alone, whether computed or loaded, also where they wait.

    They wait for pages, and for room in the queue of the device, which has next to none.
    """
    prompts = [PROMPT[:length] for length in (60, 33, 48, 5, 59)]
    together: list[dict[int, bytes]] = [{}, {}]
    async with engine_of(ring_capacity=2) as engine:
        alone = [(await ask(engine, prompt))[0].tobytes() for prompt in prompts]

        async def ask_one(index: int, found: dict[int, bytes]) -> None:
            logits = []

            async def tell(_token: int, row: np.ndarray) -> None:
                logits.append(row)

            await engine.generate(prompts[index], COUNT, tell)
            found[index] = np.stack(logits).tobytes()

        async with kv.open_service(ROOM, socket):
            await engine.store.wait_connected()
            for found in together:
                before = counted(engine).get("loaded", 0)
                async with anyio.create_task_group() as tasks:
                    for index in range(len(prompts)):
                        tasks.start_soon(ask_one, index, found)
                await settled(engine)
            loaded = counted(engine)["loaded"] - before

    assert loaded == 3 + 2 + 2 + 3  # in the second round; in the first they share what is there
    assert [dict(enumerate(alone))] * 2 == together


async def test_a_request_that_is_too_long_is_refused(engine_of):
    """It takes no pages, whether the model or the cache has no room for it; others go on."""
    async with engine_of(pages=10) as engine:
        with pytest.raises(NoRoom, match="2048"):
            await ask(engine, [0] * TOY.positions)
        with pytest.raises(NoRoom, match="10"):
            await ask(engine, [0] * 60)
        logits, _ = await ask(engine, PROMPT[:17])

    assert logits.shape == (COUNT, TOY.vocabulary)


async def test_pages_are_waited_for_in_turn():
    """Small requests do not pass by a large one for ever, and who leaves takes nothing."""
    blocks, order = Blocks(4), []
    first = await blocks.take(3)

    async def take(count: int) -> None:
        taken = await blocks.take(count)
        order.append(count)
        blocks.give_back(taken)

    async with anyio.create_task_group() as tasks:
        for count in (4, 1, 2):
            tasks.start_soon(take, count)
            await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0):
            await blocks.take(1)
        assert order == []
        blocks.give_back(first)

    assert order == [4, 1, 2]
    assert blocks.free == 4


# --- the store ----------------------------------------------------------------------------------


async def test_another_engine_answers_from_the_store_with_the_same_logits(engine_of, socket):
    """Bit for bit, by all whole chunks of the prompt, in other pages, all at once or by layers."""
    async with kv.open_service(ROOM, socket):
        async with engine_of() as engine:
            cold, first = await ask(engine)
            stored = counted(engine)
        async with engine_of() as engine:
            await engine.blocks.take(3)  # so its pages are not those of the other one
            engine.blocks.count -= 3
            loaded = [await ask(engine, use=use) for use in ("layers", "whole")]
            found = counted(engine)

    assert stored == {"saved": len(PROMPT + first.tokens[:-1]) // TOY.chunk_tokens}
    assert found == {"loaded": 6, "skipped: stored": 8}
    assert [0, WHOLE, WHOLE] == [first.loaded, *(answer.loaded for _, answer in loaded)]
    assert {cold.tobytes()} == {logits.tobytes() for logits, _ in loaded}


async def test_a_layer_is_not_computed_before_it_is_there(engine_of, socket, faults):
    """Slow copies: the stream waits for each layer, and the answer is the same."""
    async with kv.open_service(ROOM, socket), engine_of() as engine:
        await let_copies_serve(engine)
        cold, _ = await ask(engine)
        hold_before(engine.prefix, "load", faults)
        submitted = hold_before(engine.decoder, "step", faults)
        faults.inject("device:copy", count=12, delay=0.02)
        logits = []

        async def tell(_token: int, row: np.ndarray) -> None:
            logits.append(row)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.generate, PROMPT, COUNT, tell)
            await submitted.wait()
            faults.let_go()
        await settled(engine)

    assert cold.tobytes() == np.stack(logits).tobytes()


async def test_the_answer_is_stored_as_well(engine_of, socket):
    """So a conversation that goes on finds what was said, but for the last token: it had no turn.

    The prompt and its answer are three chunks, of which two and all but one token were computed.
    """
    async with kv.open_service(ROOM, socket), engine_of() as engine:
        _, before = await ask(engine, PROMPT[:30], 18)
        longer = [*PROMPT[:30], *before.tokens, 7]
        cold, _ = await ask(engine, longer, use="off")
        answers = [await ask(engine, longer) for _ in range(2)]

    assert [answer.loaded for _, answer in answers] == [32, 48]
    assert {cold.tobytes()} == {logits.tobytes() for logits, _ in answers}


async def test_without_a_service_all_is_computed(engine_of, socket):
    """Before it is there, and after it has gone; a new one is found again, and begins empty."""
    async with engine_of() as engine:
        answers = [await ask(engine)]
        for _ in range(2):
            async with kv.open_service(ROOM, socket):
                await engine.store.wait_connected()
                answers += [await ask(engine), await ask(engine)]
            await until(lambda: not engine.store.statistics().connected)
            answers.append(await ask(engine))

    assert [answer.loaded for _, answer in answers] == [0, 0, WHOLE, 0, 0, WHOLE, 0]
    assert len({logits.tobytes() for logits, _ in answers}) == 1


async def test_what_the_store_refuses_is_skipped(engine_of, socket):
    """A chunk does not fit into this store: it is counted, and the answer is the same."""
    tiny = kv.StoreOptions(limit_bytes=8192, slab_bytes=4096)
    async with engine_of() as engine:
        cold, _ = await ask(engine)
        async with kv.open_service(tiny, socket):
            await engine.store.wait_connected()
            logits, answer = await ask(engine)
        counts = counted(engine)

    assert counts == {"skipped: disconnected": 4, "skipped: size": 4}
    assert answer.loaded == 0
    assert cold.tobytes() == logits.tobytes()


async def test_a_load_that_fails_is_computed_instead(engine_of, socket, faults):
    """The driver refuses the copies: the answer is the same, and nothing stays held."""
    async with kv.open_service(ROOM, socket) as service, engine_of() as engine:
        await let_copies_serve(engine)
        cold, _ = await ask(engine)
        for use in ("layers", "whole"):
            faults.inject("cuMemcpyBatchAsync_v2", 1)
            logits, answer = await ask(engine, use=use)

            assert answer.loaded == 0
            assert cold.tobytes() == logits.tobytes()
        await nothing_held(engine, service)


async def test_an_answer_is_not_made_up(engine_of, faults):
    """A step that the driver refuses ends the request; its pages come back, the next is right."""
    async with engine_of() as engine:
        cold, _ = await ask(engine)
        for function in ("cuLaunchKernel", "cuMemcpyHtoDAsync_v2"):

            async def tell(_token: int, _row: np.ndarray, function: str = function) -> None:
                faults.inject(function, 1)

            with pytest.raises(ajit.DeviceError):
                await engine.generate(PROMPT, COUNT, tell)
            await settled(engine)
        logits, _ = await ask(engine)

    assert cold.tobytes() == logits.tobytes()


# --- cancellation -------------------------------------------------------------------------------


async def nothing_held(engine: Engine, service: kv.Service) -> None:
    """All pages are back, and the service knows of no lease and no reservation."""
    await settled(engine)
    assert await engine.store.ping() is not None
    statistics = service.statistics().store

    assert (statistics.leases, statistics.reservations) == (0, 0)
    assert engine.store.statistics().held == 0


def hold_before(owner: object, name: str, faults) -> anyio.Event:
    """Let the device do nothing from when a method is called; the event: it has submitted."""
    submitted, method = anyio.Event(), getattr(owner, name)

    async def called(*args, **kwargs):
        faults.hold()
        setattr(owner, name, method)
        result = await method(*args, **kwargs)
        submitted.set()
        return result

    setattr(owner, name, called)
    return submitted


@pytest.mark.parametrize("where", ["prefill", "load"])
@pytest.mark.parametrize("use", ["layers", "whole"])
async def test_a_request_that_is_cancelled_leaves_nothing(engine_of, socket, faults, where, use):
    """It leaves at once; its pages come back when the device is done with them, and not before."""
    async with kv.open_service(ROOM, socket) as service, engine_of() as engine:
        await let_copies_serve(engine)
        for again in ("layers", "layers") if where == "load" else ("off",):
            cold, _ = await ask(engine, use=again)
        saved = counted(engine).get("saved")
        owner, name = (engine.prefix, "load") if where == "load" else (engine.decoder, "step")
        submitted = hold_before(owner, name, faults)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, engine, PROMPT, COUNT, use)
                with anyio.fail_after(GRACE_SECONDS):
                    await submitted.wait()
                tasks.cancel_scope.cancel()
            free = engine.blocks.free
        finally:
            faults.let_go()
        await nothing_held(engine, service)
        stored = counted(engine).get("saved")
        logits, _ = await ask(engine)

    assert free < PAGES
    assert saved == stored  # nothing of a prompt that was cancelled
    assert cold.tobytes() == logits.tobytes()


# --- other devices ------------------------------------------------------------------------------


def test_the_kernels_compile_for_a_gpu(kv_engine_cache):
    """By NVRTC, which needs no GPU; none has run them."""
    specs = specs_of(MODELS["small"])
    with ajit.open_blocking_runtime(device="none", cache_dir=kv_engine_cache) as runtime:
        artifacts = [runtime.compile(spec, arch="sm_90a") for spec in specs]

    assert [spec.entry_names for spec in specs] == [tuple(each.entries) for each in artifacts]
