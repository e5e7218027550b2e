"""Groups of a hybrid model: a prefix is found if every group has what it needs, and only then."""

from __future__ import annotations

import gc
import itertools
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ajit import kv
from ajit.errors import ArgumentError, DeviceError, UsageError
from ajit.kv.groups import Needed, name_in_part
from tests.gpu.support import ON_GPU, cpu_device

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("no_device_left"),
    pytest.mark.skipif(ON_GPU, reason="the engine's cache is an array here"),
]

CHUNK, MOST_CHUNKS = 8, 6
PAGES = MOST_CHUNKS * CHUNK
INVALID_VALUE = 1


def layout(page_tokens, layers=2):
    """A cache of one plane, whose pages are each in one piece."""
    return kv.Layout(
        layers=layers, planes=1, heads=1, dim=3, dtype="uint8", page_tokens=page_tokens,
        axes="BTHD", chunk_tokens=CHUNK,
    )  # fmt: skip


GROUPS = kv.Groups(
    [
        kv.Group("all", layout(4)),
        kv.Group("window", layout(2), window=11),
        kv.Group("state", layout(8, layers=1), window=1),
    ]
)
SPACES = GROUPS.namespaces("toy", "1")
OPTIONS = kv.StoreOptions(limit_bytes=1 << 18, slab_bytes=1 << 16)


def chunk_ids(prompt, chunks):
    """What tells the chunks of a prompt apart: prompts 0 and 1 have the first two in common."""
    return [(0 if index < 2 else prompt, index) for index in range(chunks)]


def tokens_of(prompt, chunks):
    """Tokens of it, and some that are no whole chunk."""
    ids = chunk_ids(prompt, chunks)
    return [100 * owner + index for owner, index in ids for _ in range(CHUNK)] + [7] * 3


class Engine:
    """An engine on the CPU driver: a cache whose every page says what it holds."""

    def __init__(self, seed=0):
        self.tensors = [
            [np.zeros(each.layout.tensor_bytes(PAGES), np.uint8) for _ in range(each.layout.layers)]
            for each in GROUPS.groups
        ]  # fmt: skip
        order = np.random.default_rng(seed)
        self.tables = [order.permutation(PAGES).astype(np.int32) for _ in GROUPS.groups]

    def page(self, group, layer, place):
        """The page at a place of the prompt."""
        return self.tensors[group][layer].reshape(PAGES, -1)[self.tables[group][place]]

    def compute(self, prompt, chunks):
        """Fill the pages of a prompt."""
        for group, layer, place in self.places(chunks):
            self.page(group, layer, place)[:] = self.content(prompt, group, layer, place)

    def places(self, chunks):
        """Group, layer and place of all pages of so many chunks."""
        for index, group in enumerate(GROUPS.groups):
            pages = range(chunks * group.layout.chunk_pages)
            for layer, place in itertools.product(range(group.layout.layers), pages):
                yield index, layer, place

    def content(self, prompt, group, layer, place):
        """What a page of a prompt holds: never 0."""
        owner, index = chunk_ids(prompt, MOST_CHUNKS)[
            place // GROUPS.groups[group].layout.chunk_pages
        ]
        return 1 + (97 * owner + 31 * index + 7 * place + 3 * group + layer) % 251

    def tables_of(self, chunks):
        """The engine's tables for a prompt: what a window has left is gone."""
        tables = []
        for group, table in zip(GROUPS.groups, self.tables, strict=True):
            pages, needed = group.layout.chunk_pages, group.needed(chunks)
            mine = table[: chunks * pages].copy()
            mine[: needed.first * pages + needed.skip_pages] = -1
            tables.append(mine)
        return tables

    def check_loaded(self, prompt, chunks):
        """What every group needs is there, to the byte, and no other page was touched."""
        for index, layer, place in self.places(MOST_CHUNKS):
            group = GROUPS.groups[index]
            needed, pages = group.needed(chunks), group.layout.chunk_pages
            wanted = needed.first * pages + needed.skip_pages <= place < needed.stop * pages
            expected = self.content(prompt, index, layer, place) if wanted else 0
            assert set(self.page(index, layer, place)) == {expected}, (index, layer, place)


class Model:
    """What a store has, by the names of chunks, and what can be loaded of it."""

    def __init__(self):
        self.names = [set() for _ in GROUPS.groups]

    def save(self, prompt, chunks):
        """What an engine has saved of a prompt."""
        ids = chunk_ids(prompt, chunks)
        for group, names in zip(GROUPS.groups, self.names, strict=True):
            needed = group.needed(chunks)
            for index in range(needed.first, needed.stop):
                skip = needed.skip_pages if index == needed.first else 0
                if (ids[index], 0) not in names:
                    names.add((ids[index], skip))

    def discard(self, prompt, index, group):
        """A chunk that did not verify."""
        gone = chunk_ids(prompt, MOST_CHUNKS)[index]
        after = lambda name: name[0][1] > index and (gone[1] < 2 or name[0][0] == gone[0])  # noqa: E731
        path = not GROUPS.groups[group].window
        self.names[group] = {
            name for name in self.names[group]
            if name != (gone, 0) and not (path and after(name))
        }  # fmt: skip

    def longest(self, prompt, chunks):
        """By trying each length."""
        return next(n for n in range(chunks, -1, -1) if self.has(prompt, n))

    def has(self, prompt, chunks):
        """Whether all groups have what a prefix needs."""
        ids = chunk_ids(prompt, chunks)
        for group, names in zip(GROUPS.groups, self.names, strict=True):
            needed = group.needed(chunks)
            for index in range(needed.first, needed.stop):
                skip = needed.skip_pages if index == needed.first else 0
                if not {(ids[index], 0), (ids[index], skip)} & names:
                    return False
        return True


async def saved(device, groups, engine, prompt, chunks, spare=0):
    """Save a prompt."""
    async with (
        kv.open_group_pages(device, GROUPS, engine.tensors, check=False) as pages,
        groups.reserve(tokens_of(prompt, chunks)) as slots,
    ):
        transfer = await pages.save(engine.tables_of(chunks), slots)
        assert await slots.commit()
        await transfer
        return transfer


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("save"), st.integers(0, 1), st.integers(1, MOST_CHUNKS)),
        st.tuples(st.just("discard"), st.integers(0, 1), st.integers(0, MOST_CHUNKS - 1),
                  st.integers(0, 2)),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@given(STEPS, st.integers(0, 1), st.integers(1, MOST_CHUNKS))
@example(
    [("save", 0, 3), ("save", 0, 6), ("discard", 0, 5, 2), ("discard", 0, 2, 1)], 0, 6
)  # the state fits a length that the window, which was asked before, does not
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_a_hit_is_the_longest_prefix_that_all_groups_have(steps, prompt, chunks):
    """Whatever was saved and lost before: as a model that tries each length; to the byte."""
    model = Model()
    async with cpu_device() as device, kv.open_store(OPTIONS) as store:
        groups = kv.GroupStore(store, GROUPS, SPACES)
        for what, *args in steps:
            if what == "save":
                engine = Engine(seed=1)
                engine.compute(*args)
                await saved(device, groups, engine, *args)
                model.save(*args)
            else:
                owner, index, group = args
                digests = kv.chunk_digests(SPACES[group], tokens_of(owner, MOST_CHUNKS))
                await store.discard(SPACES[group], digests[index])
                model.discard(owner, index, group)
        engine, expected = Engine(seed=2), model.longest(prompt, chunks)
        async with groups.lease(tokens_of(prompt, chunks)) as hit:
            assert (hit.chunks, hit.tokens) == (expected, expected * CHUNK)
            async with kv.open_group_pages(device, GROUPS, engine.tensors, check=False) as pages:
                await (await pages.load(hit, engine.tables))
        assert store.statistics().leases == store.statistics().reservations == 0
    engine.check_loaded(prompt, expected)


async def test_each_group_needs_its_namespace():
    """One for all, or one too few, is refused with what makes them."""
    async with kv.open_store(OPTIONS) as store:
        for namespaces in (SPACES[0], SPACES[:2]):
            with pytest.raises(UsageError, match=r"groups\.namespaces"):
                kv.GroupStore(store, GROUPS, namespaces)


async def test_it_is_the_same_behind_a_socket(open_any):
    """And a prompt that was saved longer is found shorter only where its windows were saved."""
    async with open_any(OPTIONS) as (store, _), cpu_device() as device:
        groups, engine = kv.GroupStore(store, GROUPS, SPACES), Engine()
        for chunks in (2, 5):
            engine.compute(0, chunks)
            await saved(device, groups, engine, 0, chunks)
        for asked, expected in ((6, 5), (5, 5), (4, 2), (3, 2), (2, 2), (1, 0)):
            other = Engine(seed=3)
            async with (
                groups.lease(tokens_of(0, asked)) as hit,
                kv.open_group_pages(
                    device, GROUPS, other.tensors, check=False, store=store
                ) as pages,
            ):
                await (await pages.load(hit, other.tables))
            assert hit.chunks == expected
            other.check_loaded(0, expected)


async def test_only_what_a_window_needs_is_stored(open_any):
    """And what is there is not stored again."""
    async with open_any(OPTIONS) as (store, keeper), cpu_device() as device:
        groups, engine = kv.GroupStore(store, GROUPS, SPACES), Engine()
        engine.compute(0, 6)
        await saved(device, groups, engine, 0, 6)
        assert keeper.ledger.chunks == 6 + 2 + 1
        transfer = await saved(device, groups, engine, 0, 6)

        assert keeper.ledger.chunks == 6 + 2 + 1
        assert transfer.transfers == (None, None, None)
        assert transfer.nbytes == 0
        engine.compute(1, 5)
        await saved(device, groups, engine, 1, 5)
        before = keeper.ledger.chunks
        engine.compute(1, 6)
        await saved(device, groups, engine, 1, 6)
        assert keeper.ledger.chunks == before + 3  # chunk 4, of which a part would do, is there


async def test_memory_of_all_groups_is_held_until_the_copies_are_over(open_any, faults):
    """Released at once, and given back when the device is done."""
    async with (
        open_any(OPTIONS) as (store, keeper),
        cpu_device() as device,
        AsyncExitStack() as stack,
    ):
        groups, engine = kv.GroupStore(store, GROUPS, SPACES), Engine()
        pages = await stack.enter_async_context(
            kv.open_group_pages(device, GROUPS, engine.tensors, check=False)
        )
        slots = await groups.reserve(tokens_of(0, 3))
        with faults.held():
            transfer = await pages.save(engine.tables_of(3), slots)
            slots.release()
            slots.release()
            if hasattr(store, "ping"):
                await store.ping()
            assert keeper.ledger.reservations > 0
        await transfer
        if hasattr(store, "ping"):
            await store.ping()
        assert keeper.ledger.reservations == 0


async def test_a_page_that_a_window_has_left_is_not_stored_as_if_it_were_there(open_any):
    """An engine gives -1 for it: where it is needed, the save is refused."""
    async with (
        open_any(OPTIONS) as (store, _),
        cpu_device() as device,
        AsyncExitStack() as stack,
    ):
        groups, engine = kv.GroupStore(store, GROUPS, SPACES), Engine()
        pages = await stack.enter_async_context(
            kv.open_group_pages(device, GROUPS, engine.tensors, check=False)
        )
        async with groups.reserve(tokens_of(0, 3)) as slots:
            for at in range(len(GROUPS)):
                tables = [list(map(int, table)) for table in engine.tables_of(3)]
                tables[at][-1] = -1
                with pytest.raises(UsageError, match="a negative number is a gap"):
                    await pages.save(tables, slots)


@asynccontextmanager
async def one_slab(_):
    """A slab has chunks of one size, and these groups have three."""
    async with kv.open_store(kv.StoreOptions(limit_bytes=4096, slab_bytes=4096)) as store:
        yield store


@asynccontextmanager
async def no_service(folder):
    """A client without one."""
    async with kv.connect(folder / "kv.sock") as store:
        yield store


@pytest.mark.parametrize(("opening", "why"), [(one_slab, "busy"), (no_service, "disconnected")])
async def test_commit_of_groups_is_false_if_a_part_had_no_memory(tmp_path, opening, why):
    """A prefix of which a group lacks something is no hit, and `reason` says why it is not."""
    async with opening(tmp_path) as store:
        groups = kv.GroupStore(store, GROUPS, SPACES)
        async with groups.reserve(tokens_of(0, 3)) as slots:
            told = repr(slots)
            assert slots.reason == why
            assert await slots.commit() is False
        async with groups.lease(tokens_of(0, 3)) as hit:
            assert hit.chunks == 0

    assert told == f"<GroupReservation of {len(slots)} chunks, {why}>"


async def test_a_group_that_fails_fails_all(faults):
    """After all copies are over: a prefix that lacks a group has to be computed."""
    async with cpu_device() as device, kv.open_store(OPTIONS) as store:
        groups, engine = kv.GroupStore(store, GROUPS, SPACES), Engine()
        engine.compute(0, 3)
        await saved(device, groups, engine, 0, 3)
        async with (
            groups.lease(tokens_of(0, 3)) as hit,
            kv.open_group_pages(device, GROUPS, engine.tensors, check=False) as pages,
        ):
            faults.inject("cuMemcpyBatchAsync_v2", INVALID_VALUE)
            load = await pages.load(hit, engine.tables)
            with pytest.raises(DeviceError):
                await load
            assert all(each.done for each in load.transfers)
            bad, refused = [*engine.tables[:2], np.full(PAGES, PAGES, np.int32)], anyio.Event()

            async def load_badly():
                with pytest.raises(ArgumentError, match="not below"):
                    await pages.load(hit, bad)
                refused.set()

            async with anyio.create_task_group() as tasks:
                with faults.held():
                    tasks.start_soon(load_badly)
                    await anyio.wait_all_tasks_blocked()
                    assert not refused.is_set()  # the copies of the other groups go on
            short = [*engine.tables[:2], engine.tables[2][:1]]
            with pytest.raises(UsageError, match="the table of group 'state' has 1 of 3 pages"):
                await pages.load(hit, short)
            with pytest.raises(UsageError, match="2 tables of pages for 3 groups"):
                await pages.load(hit, engine.tables[:2])


async def test_a_cancelled_lookup_leaves_nothing(monkeypatch, recwarn):
    """Neither leases nor reservations of some groups."""
    async with cpu_device() as device, kv.open_store(OPTIONS) as store:
        groups, engine = kv.GroupStore(store, GROUPS, SPACES), Engine()
        await saved(device, groups, engine, 0, 3)
        lease, reserve, calls = store._lease, store._reserve, itertools.count()

        def stopping(function, at):
            async def call(*args):
                if next(calls) == at:
                    await anyio.sleep_forever()
                return await function(*args)

            return call

        warned = recwarn.list
        for at in range(5):
            for name, function, ask in (
                ("_lease", lease, groups.lease), ("_reserve", reserve, groups.reserve),
            ):  # fmt: skip
                calls = itertools.count()
                monkeypatch.setattr(store, name, stopping(function, at))
                with anyio.move_on_after(0.01):
                    async with ask(tokens_of(1, 6)):
                        pass
                monkeypatch.undo()
            gc.collect()
        assert store.statistics().leases == store.statistics().reservations == 0
        assert [str(each.message) for each in warned] == []  # none was merely dropped


@pytest.mark.parametrize(
    ("window", "page_tokens", "chunks", "expected"),
    [
        (0, 4, 5, Needed(0, 5)),
        (0, 4, 0, Needed(0, 0)),
        (1, 8, 5, Needed(4, 5)),
        (8, 4, 5, Needed(4, 5)),
        (9, 4, 5, Needed(3, 5, 1)),
        (12, 4, 5, Needed(3, 5, 1)),
        (13, 4, 5, Needed(3, 5)),
        (1000, 4, 5, Needed(0, 5)),
        (11, 2, 0, Needed(0, 0)),
    ],
)
def test_a_window_needs_the_last_chunks(window, page_tokens, chunks, expected):
    """And of the first of these, not the pages before it."""
    assert expected == kv.Group("g", layout(page_tokens), window).needed(chunks)


def test_chunks_in_part_have_other_names():
    """One for each number of pages that are missing."""
    digest = bytes(16)

    assert name_in_part(digest, 0) == digest
    assert len({name_in_part(digest, skip) for skip in range(5)}) == 5
    assert len(name_in_part(digest, 1)) == 16


def test_groups_have_spaces_of_their_own():
    """Name and window are part of it, and the heads of each rank."""
    again = GROUPS.namespaces("toy", "1", rank=1, salt="s")

    assert len({space.digest for space in SPACES}) == len(SPACES)
    assert [space.heads for space in again] == [(1, 2)] * 3
    assert {space.salt for space in again} == {"s"}


def test_what_are_no_groups_is_refused():
    """None, names that come twice, chunks of different tokens, a window that is none."""
    one, other = kv.Group("a", layout(4)), kv.Layout(
        layers=1, heads=1, dim=3, dtype="uint8", page_tokens=4, chunk_tokens=16
    )  # fmt: skip
    for groups, says in [
        ([], "at least one"),
        ([one, one], "names of their own"),
        ([one, kv.Group("b", other)], r"not of \[8, 16\]"),
    ]:
        with pytest.raises(UsageError, match=says):
            kv.Groups(groups)
    with pytest.raises(UsageError, match="the window of group 'a' is -1"):
        kv.Group("a", layout(4), window=-1)
