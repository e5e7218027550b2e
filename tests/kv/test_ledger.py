"""The books of a store: what is found, what is reserved, and what gives way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ajit.kv.arena import Arena, place_of
from ajit.kv.chunk import Found, Limits, Refusal, Reserved, Space
from ajit.kv.fifo import S3Fifo
from ajit.kv.ledger import Ledger
from ajit.kv.shelves import Shelves

PLENTY = Limits(reserved_bytes=1 << 40, leases=1000)


def books(slots=8, slabs=1, slab_chunks=None, chunk_bytes=64, limits=PLENTY, **shelves):
    """A store with room for some chunks, one owner and one namespace."""
    arena = Arena(chunk_bytes * (slab_chunks or slots), slabs)
    for _ in range(slabs):
        arena.add_slab()
    ledger = Ledger(arena, Shelves(**shelves), limits)
    space = ledger.open(b"space", chunk_bytes, b"")
    assert isinstance(space, Space)
    return ledger, ledger.join(), space


def path(name: str, length: int) -> list[bytes]:
    """Digests of a prompt."""
    return [f"{name}{i}".encode() for i in range(length)]


def store(ledger, owner, space, digests) -> int:
    """Put chunks in, as many as there is room for; how many are here then."""
    got = ledger.reserve(owner, space, b"", digests)
    if isinstance(got, Refusal):
        return len(digests) if got.reason == "stored" else 0
    assert ledger.commit(owner, got.reservation, [0] * len(got.chunks))
    return got.first + len(got.chunks)


def hits(ledger, owner, space, digests) -> int:
    """How many chunks a lookup finds; nothing is held after it."""
    found = ledger.find(owner, space, digests)
    assert isinstance(found, Found)
    ledger.release(owner, found.lease)
    return len(found.chunks)


def test_a_lookup_finds_the_longest_beginning():
    """And nothing after the first chunk that is not here."""
    ledger, owner, space = books()
    store(ledger, owner, space, path("a", 3))
    longer = [*path("a", 3), b"other", *path("a", 3)]

    assert hits(ledger, owner, space, longer) == 3
    assert hits(ledger, owner, space, path("a", 2)) == 2
    assert hits(ledger, owner, space, path("a", 3)[1:]) == 0
    assert hits(ledger, owner, space, path("b", 3)) == 0


def test_a_namespace_does_not_find_what_is_anothers():
    """Even with a digest of it."""
    ledger, owner, space = books()
    store(ledger, owner, space, path("a", 2))
    other = ledger.open(b"other", 64, b"")

    assert hits(ledger, owner, other, path("a", 2)) == 0
    assert ledger.reserve(owner, other, b"", path("a", 2)) == Refusal("parent")
    assert ledger.discard(other, b"a0") == 0


def test_a_namespace_has_one_chunk_size():
    """Another one under the same name would read other memory."""
    ledger, _, space = books()

    assert ledger.open(b"space", 64, b"") is space
    assert ledger.open(b"space", 32, b"") == Refusal("size")
    assert ledger.open(b"new", 64 * 9, b"") == Refusal("size")


def test_what_is_stored_already_is_skipped():
    """Another engine may have been faster."""
    ledger, owner, space = books()
    store(ledger, owner, space, path("a", 2))
    got = ledger.reserve(owner, space, b"", path("a", 4))

    assert isinstance(got, Reserved)
    assert got.first == 2
    assert [chunk.digest for chunk in got.chunks] == path("a", 4)[2:]
    assert ledger.reserve(owner, space, b"", path("a", 2)) == Refusal("stored")
    assert ledger.reserve(owner, space, b"a1", path("a", 4)[2:]) == Refusal("pending")
    assert ledger.reserve(owner, space, b"gone", path("a", 4)) == Refusal("parent")


def test_a_part_of_a_reservation_can_be_committed():
    """Each is found at once, in order."""
    ledger, owner, space = books()
    got = ledger.reserve(owner, space, b"", path("a", 3))
    found = []
    for _ in range(3):
        assert ledger.commit(owner, got.reservation, [7])
        found.append(hits(ledger, owner, space, path("a", 3)))

    assert found == [1, 2, 3]
    assert not ledger.commit(owner, got.reservation, [7])
    assert ledger.reservations == 0


def test_more_commits_than_chunks_commit_nothing():
    """The owner does not know what it has written. Its memory is its own until it lets go."""
    ledger, owner, space = books()
    got = ledger.reserve(owner, space, b"", path("a", 2))

    assert not ledger.commit(owner, got.reservation, [0, 0, 0])
    assert not ledger.commit(owner, got.reservation, [0, 0])
    assert ledger.arena.used_bytes == 128
    assert ledger.abort(owner, got.reservation)
    assert ledger.arena.used_bytes == 0


@pytest.mark.parametrize("end", ["commit", "abort", "expire", "lost", "gone"])
def test_what_is_stored_no_more_is_told_once(end):
    """However it ended. Those who wait for such a chunk look again, and no others."""
    ledger, owner, space = books()
    got = ledger.reserve(owner, space, b"", path("a", 2))
    other = ledger.reserve(ledger.join(), space, b"", path("b", 1))
    before = ledger.take_settled()
    if end == "commit":
        ledger.commit(owner, got.reservation, [0, 0])
    elif end == "abort":
        ledger.abort(owner, got.reservation)
    elif end == "expire":
        ledger.expire(got.reservation)
    else:
        getattr(ledger, end)(owner)

    assert before == []
    assert sorted(ledger.take_settled()) == path("a", 2)
    assert ledger.take_settled() == []
    assert ledger.has_reservation(other.reservation)
    assert ledger.is_pending(b"b0")


def test_what_is_read_or_evicted_settles_nothing():
    """None waits for it."""
    ledger, owner, space = books(slots=2)
    store(ledger, owner, space, path("a", 2))
    ledger.take_settled()
    hits(ledger, owner, space, path("a", 2))
    store(ledger, owner, space, path("b", 2))

    assert sorted(ledger.take_settled()) == path("b", 2)


def test_neighbours_lie_in_a_row():
    """One copy then moves a run of chunks."""
    ledger, owner, space = books()
    got = ledger.reserve(owner, space, b"", path("a", 4))
    offsets = [place_of(chunk.slot, 64).offset for chunk in got.chunks]

    assert offsets == [0, 64, 128, 192]


def test_a_prompt_loses_its_end_first():
    """What is left is a beginning, which a lookup finds."""
    ledger, owner, space = books(slots=4)
    store(ledger, owner, space, path("a", 4))
    store(ledger, owner, space, path("b", 2))

    assert hits(ledger, owner, space, path("a", 4)) == 2
    assert hits(ledger, owner, space, path("b", 2)) == 2
    assert ledger.counts.chunks_evicted == 2


def test_what_is_used_again_stays():
    """A scan of prompts that come once pushes out each other."""
    ledger, owner, space = books(slots=20)
    store(ledger, owner, space, path("hot", 4))
    for _ in range(3):
        hits(ledger, owner, space, path("hot", 4))
    for i in range(50):
        store(ledger, owner, space, path(f"scan{i}-", 2))

    assert hits(ledger, owner, space, path("hot", 4)) == 4


def test_what_is_leased_makes_a_store_busy():
    """And is not reported as stored (fault F5 of other services)."""
    ledger, owner, space = books(slots=4)
    store(ledger, owner, space, path("a", 4))
    found = ledger.find(owner, space, path("a", 4))
    refused = ledger.reserve(owner, space, b"", path("b", 1))
    ledger.release(owner, found.lease)
    taken = ledger.reserve(owner, space, b"", path("b", 1))

    assert refused == Refusal("busy")
    assert isinstance(taken, Reserved)
    assert ledger.counts.refused == 1


def test_what_has_no_room_is_left_out_from_the_end():
    """A beginning is worth storing."""
    ledger, owner, space = books(slots=4)
    stored = store(ledger, owner, space, path("a", 9))

    assert stored == 4
    assert hits(ledger, owner, space, path("a", 9)) == 4


def test_one_reservation_is_not_endless():
    """Each chunk takes the loop some microseconds; the rest is asked for again."""
    ledger, owner, space = books(slots=3000)
    first = store(ledger, owner, space, path("a", 2500))
    second = store(ledger, owner, space, path("a", 2500))

    assert (first, second) == (1024, 2048)


def test_many_tenants_give_way_from_the_fullest():
    """Chunk by chunk: so those that have little keep it."""
    ledger, owner, space = books(slots=300)
    for i in range(100):
        salted = ledger.open(b"s%d" % i, 64, b"t%d" % i)
        store(ledger, owner, salted, path(f"s{i}-", 1 + (i % 4)))
    store(ledger, owner, space, path("a", 100))
    left = [ledger.shelves.used_bytes(b"t%d" % i) // 64 for i in range(100)]

    assert sum(left) == 200
    assert min(left) == 1
    assert sorted(left)[:75] == [1] * 25 + [2] * 50
    assert max(left) <= 3


def test_an_owner_reserves_no_more_than_its_credit():
    """What it has committed does not count."""
    limits = Limits(reserved_bytes=128, leases=1)
    ledger, owner, space = books(limits=limits)
    got = ledger.reserve(owner, space, b"", path("a", 3))
    refused = ledger.reserve(owner, space, b"", path("b", 1))
    ledger.commit(owner, got.reservation, [0, 0])

    assert len(got.chunks) == 2
    assert refused == Refusal("busy")
    assert isinstance(ledger.reserve(owner, space, b"", path("b", 1)), Reserved)
    assert isinstance(ledger.find(owner, space, path("a", 1)), Found)
    assert ledger.find(owner, space, path("a", 1)) == Refusal("busy")


def test_a_tenant_with_a_quota_gives_way_to_itself():
    """And never pushes out others."""
    ledger, owner, space = books(slots=8, quota_bytes=3 * 64)
    salted = ledger.open(b"salted", 64, b"tenant")
    store(ledger, owner, space, path("a", 4))
    for i in range(5):
        store(ledger, owner, salted, path(f"s{i}-", 2))

    assert hits(ledger, owner, space, path("a", 4)) == 4
    assert ledger.shelves.used_bytes(b"tenant") == 3 * 64


def test_the_tenant_that_uses_most_gives_way():
    """So a small one is safe from a large one."""
    ledger, owner, space = books(slots=8)
    small = ledger.open(b"small", 64, b"tenant")
    store(ledger, owner, small, path("s", 2))
    for i in range(10):
        store(ledger, owner, space, path(f"a{i}-", 4))

    assert hits(ledger, owner, small, path("s", 2)) == 2


def test_a_slab_is_cut_anew_when_nothing_in_it_is_used():
    """Another model gets memory from one that is served no more."""
    ledger, owner, space = books(slabs=2, slab_chunks=4)
    store(ledger, owner, space, path("a", 8))
    large = ledger.open(b"large", 256, b"")

    assert store(ledger, owner, large, path("l", 1)) == 1
    assert hits(ledger, owner, large, path("l", 1)) == 1
    assert ledger.arena.used_bytes <= 2 * 256


def test_a_discarded_chunk_takes_those_after_it_along():
    """It did not verify, so no lookup may find it; what is before it stays."""
    ledger, owner, space = books()
    store(ledger, owner, space, path("a", 4))
    got = ledger.reserve(owner, space, b"a3", [b"a4"])
    removed = ledger.discard(space, b"a1")

    assert removed == 3
    assert hits(ledger, owner, space, path("a", 4)) == 1
    assert not ledger.commit(owner, got.reservation, [0])
    assert ledger.abort(owner, got.reservation)
    assert ledger.arena.used_bytes == 64


def test_what_comes_back_soon_goes_to_the_main_queue():
    """The ghost list remembers names of what has left."""
    ledger, owner, space = books(slots=2)
    for name in ("a", "b", "c", "a"):
        store(ledger, owner, space, path(name, 1))
    found = ledger.find(owner, space, path("a", 1))

    assert found.chunks[0].in_main


def test_an_empty_queue_has_no_victim():
    """Nothing may leave, so nothing is found, in a bounded time."""
    assert S3Fifo(lambda _: False).evict() is None


OPS = st.lists(
    st.tuples(
        st.sampled_from(["store", "find", "release", "reserve", "commit", "abort", "expire",
                         "discard", "lost", "gone"]),
        st.integers(0, 3), st.integers(1, 5), st.integers(0, 2),
    ), max_size=60,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(OPS)
def test_the_books_are_right_after_any_calls(ops):  # noqa: C901 - a list of calls
    """Memory that is used is that of chunks that exist, and at the end all of it comes back."""
    ledger, _, space = books(slots=6)
    small = ledger.open(b"half", 32, b"t")
    owners = [ledger.join() for _ in range(3)]
    leases, writings = [], []
    for op, prompt, length, who in ops:
        owner, digests = owners[who], path(str(prompt), length)
        kind = space if prompt < 3 else small
        if op in ("lost", "gone"):
            ledger.lost(owner)
            ledger.gone(owner)
            owners[who] = ledger.join()
        elif op == "find":
            leases.append((owner, ledger.find(owner, kind, digests).lease))
        elif op == "release" and leases:
            ledger.release(*leases[length % len(leases)])
        elif op in ("store", "reserve"):
            got = ledger.reserve(owner, kind, b"", digests)
            if isinstance(got, Reserved):
                writings.append((owner, got.reservation, len(got.chunks)))
        elif op == "commit" and writings:
            number = writings[length % len(writings)]
            ledger.commit(number[0], number[1], [0] * min(number[2], length))
        elif op == "abort" and writings:
            ledger.abort(*writings[length % len(writings)][:2])
        elif op == "expire" and writings:
            ledger.expire(writings[length % len(writings)][1])
        elif op == "discard":
            ledger.discard(kind, digests[-1])
        _check_books(ledger)
    for owner in owners:
        ledger.gone(owner)
    while ledger._evict(ledger.shelves.victim(64)):
        _check_books(ledger)

    assert (ledger.arena.used_bytes, ledger.chunks, ledger.leases, ledger.reservations) == (0,) * 4


def _check_books(ledger) -> None:
    chunks = list(ledger._chunks.values())
    slots = [chunk.slot for chunk in chunks]
    assert len(slots) == len(set(slots))
    assert sum(chunk.space.chunk_bytes for chunk in chunks) <= ledger.arena.used_bytes
    for chunk in chunks:
        assert chunk.parent is None or ledger._chunks[chunk.parent.digest] is chunk.parent
    for fifo in ledger.shelves._shelves.values():
        assert len(fifo) >= 0


@pytest.mark.parametrize("chunk_bytes", [1, 100])
def test_an_arena_gives_out_each_slot_once(chunk_bytes):
    """As many as fit, and all of them again."""
    arena = Arena(1000, 2)
    for expected in (0, 1):
        assert arena.add_slab() == expected
    count = 2 * (1000 // chunk_bytes)
    for _ in range(2):
        slots = [arena.take(chunk_bytes) for _ in range(count)]
        places = {place_of(slot, chunk_bytes) for slot in slots}

        assert len(places) == count
        assert arena.take(chunk_bytes) is None
        assert not arena.may_grow
        for slot in slots:
            arena.give_back(slot)
        assert arena.free_slots(333) == 6
