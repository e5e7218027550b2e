"""Leases by directories, where locks keep no other node out.

The other node is a process whose locks are granted whatever others have; ``mkdir`` is real. What a
network file system does late is in ``tests/core/test_claim_enumeration.py`` and ``tests/network``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from functools import partial
from pathlib import Path

import anyio
import pytest

from ajit._cache.entries.disk import DiskStore, Found
from ajit._cache.files.directory import CacheDirectory
from ajit._cache.leases.claims import SETTLE_SECONDS, Claims, limits_for, pause_seconds
from ajit._cache.leases.table import Busy, Glimpse, Lease, LeaseTable, Unavailable
from ajit._core.seal import HmacKey, Trust
from tests.cache.artifacts import a_key, an_artifact
from tests.cache.helpers import DEADLINE_SECONDS, age, in_a_forked_child, in_thread, poll, until

KEY = a_key()
PATIENCE = "4"
DAY = 24 * 3600.0

pytestmark = pytest.mark.anyio


@pytest.fixture
def directory(directory: CacheDirectory) -> CacheDirectory:
    """A cache directory whose leases are directories."""
    directory.lease_kind = "directory"
    directory.patience_seconds = float(PATIENCE)
    return directory


@pytest.fixture
def other_node(start_peer):
    """Starts processes whose locks do not reach this one."""

    def start():
        peer = start_peer()
        peer.ask("claims", PATIENCE)
        return peer

    return start


def claims_of(path: Path, key: str = KEY) -> list[str]:
    """The claims of a key that are there."""
    return sorted(place.name for place in (path / "locks" / key[:2] / f"{key}.claims").iterdir())


def record_of(path: Path, number: int) -> Path:
    """The record of a claim."""
    return path / "locks" / KEY[:2] / f"{KEY}.claims" / f"{number:08d}" / "record"


def test_a_claim_excludes_where_locks_do_not(table: LeaseTable, other_node):
    """The other node is told who has it."""
    with table.try_acquire(KEY, "nvrtc") as lease:
        answer = other_node().ask("acquire", KEY)

        assert lease.held
    assert ("Busy", os.getpid()) == (answer["outcome"], answer["holder"])


def test_without_claims_locks_that_stay_on_their_node_give_a_lease_to_both(
    table: LeaseTable, start_peer
):
    """What the claims are for."""
    table.directory.lease_kind = "locks"
    peer = start_peer()
    peer.ask("claims", PATIENCE)
    with table.try_acquire(KEY, "nvrtc"):
        assert "Lease" == peer.ask("acquire", KEY)["outcome"]


def test_of_many_nodes_one_gets_the_lease(table: LeaseTable, other_node):
    """All ask at once."""
    peers = [other_node() for _ in range(3)]
    for round_number in range(20):
        key = a_key(f"race {round_number}")
        for peer in peers:
            peer.tell("acquire", key)
        outcomes = sorted(peer.hear("acquire")["outcome"] for peer in peers)

        assert ["Busy", "Busy", "Lease"] == outcomes


async def test_a_waiter_gets_the_lease_when_the_other_node_releases_it(
    table: LeaseTable, path: Path, other_node
):
    """It looks at the claim until that was left, and makes the next one."""
    peer = await in_thread(other_node)
    await in_thread(peer.ask, "acquire", KEY)
    with table.wait(KEY, "nvrtc") as waiting:
        assert await in_thread(table.read_holder, KEY) is not None
        await in_thread(peer.ask, "release", KEY)
        with anyio.fail_after(DEADLINE_SECONDS):
            lease = await waiting.wait()

    assert isinstance(lease, Lease)
    assert ["00000001", "00000002"] == await in_thread(claims_of, path)
    await in_thread(lease.release)
    assert None is await in_thread(table.read_holder, KEY)


async def test_a_beat_and_its_phase_are_seen_on_the_other_node(table: LeaseTable, other_node):
    """Each beat is another record."""
    peer = await in_thread(other_node)
    await in_thread(peer.ask, "acquire", KEY)
    first = await in_thread(table.read_holder, KEY)
    await in_thread(peer.ask, "beat", KEY, "compiling")
    second = await in_thread(table.read_holder, KEY)

    assert (peer.pid, "queued") == (first.pid, first.phase)
    assert (first.beat + 1, "compiling") == (second.beat, second.phase)


def test_the_record_of_a_holder_that_has_left_can_be_asked_for(table: LeaseTable, other_node):
    """So that a waiter sees a lease that came and went between two looks."""
    peer = other_node()
    peer.ask("acquire", KEY)
    peer.ask("release", KEY)
    record = table.read_holder(KEY, left=True)

    assert table.read_holder(KEY) is None
    assert (peer.pid, True) == (record.pid, record.left)


async def test_a_claim_that_no_waiter_needs_any_more_is_left_with_the_seal_that_was_asked_for(
    directory: CacheDirectory,
):
    """Or it would count as held by a silent holder, for as long as that is waited for."""
    table = LeaseTable(directory, Trust("hmac", [HmacKey(b"a secret of the servers")]))
    looks = iter([None, "published"])  # before the claim is made, and after
    with table.wait(KEY, "nvrtc", lambda: next(looks)) as waiting:
        with anyio.fail_after(DEADLINE_SECONDS):
            glimpse = await waiting.wait()
    await until(lambda: table.statistics().helpers == 0)
    record = await in_thread(partial(table.read_holder, KEY, left=True))
    lease = await in_thread(table.try_acquire, KEY, "nvrtc")

    assert isinstance(glimpse, Glimpse)
    assert record is not None
    assert record.left
    assert isinstance(lease, Lease)
    await in_thread(lease.release)


async def test_a_killed_holder_of_this_machine_is_followed_at_once(
    table: LeaseTable, other_node, monkeypatch
):
    """Its process is gone, which can be seen from here: no silence is needed."""
    monkeypatch.setattr("ajit._cache.leases.claims.LEAST_SILENCE_SECONDS", 1000.0)
    peer = await in_thread(other_node)
    await in_thread(peer.ask, "acquire", KEY)
    with table.wait(KEY, "nvrtc") as waiting:
        await in_thread(peer.kill)
        with anyio.fail_after(DEADLINE_SECONDS):
            lease = await waiting.wait()
    assert isinstance(lease, Lease)
    await in_thread(lease.release)


def test_a_silent_holder_is_followed_by_one_and_harms_no_one_when_it_wakes_up(
    table: LeaseTable, path: Path, other_node
):
    """Two nodes wait; one of them gets the lease, and the late release is not its end."""
    stopped, *waiters = [other_node() for _ in range(3)]
    stopped.ask("acquire", KEY)
    os.kill(stopped.pid, signal.SIGSTOP)
    for waiter in waiters:
        waiter.tell("wait", KEY)
    try:
        poll(lambda: len(claims_of(path)) > 1)
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    stopped.ask("release", KEY)

    holder = poll(lambda: table.read_holder(KEY))
    assert holder.pid in [waiter.pid for waiter in waiters]
    assert isinstance(table.try_acquire(KEY, "nvrtc"), Busy)
    assert ["00000001", "00000002"] == claims_of(path)


async def test_what_was_published_is_looked_for_before_the_claim_is_followed(
    table: LeaseTable, store: DiskStore, path: Path, other_node
):
    """It may be seen later than the release: here, the entry comes after it."""
    peer = await in_thread(other_node)
    await in_thread(peer.ask, "acquire", KEY)
    await in_thread(peer.ask, "published", KEY)
    looks = []

    def glance() -> Found | None:
        looks.append(claims_of(path))
        if table.read_holder(KEY) is None and len(looks) > 2:
            store.publish(an_artifact(KEY))
        lookup = store.read(KEY)
        return lookup if isinstance(lookup, Found) else None

    with table.wait(KEY, "nvrtc", glance) as waiting:
        await in_thread(peer.ask, "release", KEY)
        with anyio.fail_after(DEADLINE_SECONDS):
            outcome = await waiting.wait()
    assert isinstance(outcome, Glimpse)
    assert len(looks) > 2
    assert ["00000001"] == await in_thread(claims_of, path)


def test_a_lease_that_was_just_left_by_a_publisher_is_waited_for(table, path: Path, other_node):
    """Who comes in that moment looks for the entry first; who comes later need not."""
    peer = other_node()
    peer.ask("acquire", KEY)
    peer.ask("published", KEY)
    peer.ask("release", KEY)

    assert Busy(None) == table.try_acquire(KEY, "nvrtc")
    # Another process: this one would go on measuring by its own clock.
    age(record_of(path, 1), 60)
    late = other_node()
    assert "Lease" == late.ask("acquire", KEY)["outcome"]


def test_a_waiter_that_comes_late_waits_for_what_is_left_of_settling(directory, table, path: Path):
    """Not for all of it again: of many waiters only the first at the lock looks at the claim."""
    with table.try_acquire(KEY, "nvrtc") as lease:
        lease.published = True
    age(record_of(path, 1), SETTLE_SECONDS * 0.9)
    claims = Claims(directory, KEY)
    begun = time.monotonic()

    assert not claims.try_make()
    assert claims.settling
    assert poll(claims.try_make)
    assert time.monotonic() - begun < SETTLE_SECONDS * 0.9


def test_a_lease_that_was_just_left_without_publishing_is_free(table: LeaseTable, other_node):
    """As after a compile whose result is not kept."""
    peer = other_node()
    peer.ask("acquire", KEY)
    peer.ask("beat", KEY, "publishing")
    peer.ask("release", KEY)

    with table.try_acquire(KEY, "nvrtc") as lease:
        assert isinstance(lease, Lease)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
async def test_a_file_system_without_locks_has_leases(table, other_node, monkeypatch, code: int):
    """The lock in front is only there to save work."""

    def unsupported(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    peer = await in_thread(other_node)
    await in_thread(peer.ask, "acquire", KEY)

    assert isinstance(await in_thread(table.try_acquire, KEY, "nvrtc"), Busy)
    with table.wait(KEY, "nvrtc", lambda: None) as waiting:
        await in_thread(peer.ask, "release", KEY)
        lease = await waiting.wait()
    assert isinstance(lease, Lease)
    await in_thread(lease.release)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
async def test_a_server_that_restarts_does_not_end_a_wait(table, other_node, monkeypatch, code):
    """Its errors are no news; the wait goes on, and patience bounds it."""
    peer = await in_thread(other_node)
    await in_thread(peer.ask, "acquire", KEY)
    mkdir, failed = os.mkdir, []

    def failing(name, *args, **kwargs):
        if str(name).isdigit() and len(failed) < 3:
            failed.append(name)
            raise OSError(code, os.strerror(code), name)
        return mkdir(name, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", failing)
    with table.wait(KEY, "nvrtc") as waiting:
        await in_thread(peer.ask, "release", KEY)
        lease = await waiting.wait()
    assert isinstance(lease, Lease)
    assert 3 == len(failed)
    await in_thread(lease.release)


async def test_a_claim_that_cannot_be_made_is_said_so(table, monkeypatch):
    """No claim, no lease, and no exception: the work goes on without."""

    def failing(name, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    monkeypatch.setattr(os, "mkdir", failing)

    outcome = await in_thread(table.try_acquire, KEY, "nvrtc")
    assert isinstance(outcome, Unavailable)
    assert os.strerror(errno.ENOSPC) in outcome.reason


def test_claims_a_day_old_are_removed_but_the_newest_two_and_what_is_foreign(
    table: LeaseTable, path: Path
):
    """Each holder that leaves does this; nothing else in the directory is touched."""
    for _ in range(4):
        table.try_acquire(KEY, "nvrtc").release()
    for name in claims_of(path)[:-1]:
        age(record_of(path, int(name)).parent, 2 * DAY)
    foreign = record_of(path, 1).parent.parent / "notes"
    foreign.mkdir()
    table.try_acquire(KEY, "nvrtc").release()

    assert ["00000004", "00000005", "notes"] == claims_of(path)


def test_a_removal_from_the_cache_makes_no_claim_and_respects_one(
    table: LeaseTable, path: Path, other_node
):
    """An evictor only needs to see that no node holds the lease."""
    table.try_acquire(KEY, "nvrtc").release()
    with table.try_acquire(KEY, "eviction", claim=False) as lease:
        assert isinstance(lease, Lease)
        assert table.read_holder(KEY) == lease.record
    assert ["00000001"] == claims_of(path)

    other_node().ask("acquire", KEY)
    assert isinstance(table.try_acquire(KEY, "eviction", claim=False), Busy)


async def test_a_waiter_of_an_evictor_gets_a_claim_of_its_own(table: LeaseTable, path: Path):
    """What the evictor had is not passed on: it is no lease for other nodes."""
    evictor = await in_thread(lambda: table.try_acquire(KEY, "eviction", claim=False))
    with table.wait(KEY, "nvrtc") as waiting:
        await in_thread(evictor.release)
        lease = await waiting.wait()
    assert ["00000001"] == await in_thread(claims_of, path)
    await in_thread(lease.release)


async def test_waiters_of_one_process_pass_a_claim_on(table: LeaseTable, path: Path):
    """In order, and without a new one."""
    first = await in_thread(table.try_acquire, KEY, "nvrtc")
    with table.wait(KEY, "nvrtc") as waiting:
        await in_thread(first.release)
        second = await waiting.wait()
    assert isinstance(second, Lease)
    assert ["00000001"] == await in_thread(claims_of, path)
    await in_thread(second.release)
    assert None is await in_thread(table.read_holder, KEY)


def test_a_forked_child_has_no_claim_and_harms_none(table: LeaseTable, path: Path):
    """In the child the lease is not held, and the parent's claim stays."""
    lease = table.try_acquire(KEY, "nvrtc")

    def child() -> bool:
        lease.release()
        lease.beat("publishing")
        return isinstance(table.try_acquire(KEY, "child"), Busy)

    assert in_a_forked_child(child)
    assert table.read_holder(KEY) == lease.record
    lease.release()


async def test_many_contended_keys_need_no_thread_each(table: LeaseTable, other_node):
    """What is tried in turn goes for the claim, too."""
    peer = await in_thread(other_node)
    keys = [a_key(number) for number in range(20)]
    for key in keys:
        await in_thread(peer.ask, "acquire", key)
    waits = [table.wait(key, "nvrtc") for key in keys]
    for key in keys:
        await in_thread(peer.ask, "release", key)

    leases = [await wait.wait() for wait in waits]
    assert all(isinstance(lease, Lease) for lease in leases)
    for lease in leases:
        await in_thread(lease.release)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to any group")
def test_the_group_that_shares_a_cache_may_write_its_claims(tmp_path: Path):
    """Modes do not depend on who made the claim, nor on the umask."""
    from ajit._cache.files.directory import open_cache_directory

    shared = open_cache_directory(tmp_path / "shared", shared_group="12345")
    shared.lease_kind = "directory"
    before = os.umask(0o077)
    try:
        LeaseTable(shared).try_acquire(KEY, "nvrtc").release()
    finally:
        os.umask(before)
    record = record_of(tmp_path / "shared", 1)
    modes = [place.stat().st_mode & 0o7777 for place in (record, record.parent)]
    assert [0o660, 0o2770] == modes
    assert 12345 == record.parent.stat().st_gid


def test_permits_are_of_the_node_and_need_no_claim(directory: CacheDirectory, path: Path):
    """They count what runs on one machine."""
    permit = LeaseTable(directory, of_node=True).try_acquire("permit-node-0", "nvrtc")
    assert isinstance(permit, Lease)
    assert [] == list(path.glob("locks/*/*.claims"))
    permit.release()


def test_times_follow_from_patience():
    """A claim is followed before its waiters lose patience, and looks become rare."""
    assert 7.0 == limits_for(10.0).silence_seconds
    assert 3.0 == limits_for(1.0).silence_seconds
    assert 0.015 <= pause_seconds(0.0) <= 0.045
    assert 0.25 <= pause_seconds(1000.0) <= 0.75


def test_a_claim_says_what_it_is(directory: CacheDirectory):
    """For those who look at it in a debugger."""
    assert "watching" in repr(Claims(directory, KEY))
