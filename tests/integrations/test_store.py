"""Bytes under a peer's key: one caller makes them, the others wait, and no one for ever."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest

import ajit
from ajit.integrations._store import Store
from ajit.testing import FakeFileSystem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 60.0
"""Seconds that anything may take on a loaded machine."""


@pytest.fixture
def store(rt: ajit.BlockingRuntime) -> Iterator[Store]:
    """A store of a peer that there is not."""
    made = store_of(rt)
    yield made
    made.close()


def store_of(rt: Any, **terms: Any) -> Store:
    """Another store of the same cache."""
    return Store(rt, "peer.of.tests:compile", "peer 1.0", **terms)


def test_what_is_saved_is_loaded(store: Store, rt: ajit.BlockingRuntime) -> None:
    """A miss, a save, and a hit; also for another store of the same cache."""
    before = store.load("key")
    store.save("key", b"code")

    assert before is None
    assert store.load("key") == b"code"
    assert store_of(rt).load("key") == b"code"
    assert store.count() == 1


def test_another_version_is_another_key(store: Store, rt: ajit.BlockingRuntime) -> None:
    """What one version of a peer has made is not given to another."""
    store.load("key")
    store.save("key", b"code")
    other = Store(rt, "peer.of.tests:compile", "peer 2.0")

    assert other.load("key") is None

    other.close()


def test_a_second_thread_waits_for_the_first(store: Store) -> None:
    """While one thread has the turn, another waits and gets what the first has saved."""
    assert store.load("key") is None
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(store.load, "key")
        store.save("key", b"code")

        assert waiting.result(PATIENCE) == b"code"


def test_a_thread_that_loads_something_else_has_given_up(store: Store) -> None:
    """A compile that failed saves nothing: the thread's next load lets the others go on."""
    assert store.load("fails") is None
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(store.load, "fails")
        assert store.load("next") is None

        assert waiting.result(PATIENCE) is None  # it is the other's turn now


def test_a_turn_ends_by_itself(rt: ajit.BlockingRuntime) -> None:
    """After its time the next one compiles; what then comes all the same is kept."""
    store = store_of(rt, turn_seconds=0.2)
    assert store.load("key") is None
    with ThreadPoolExecutor(1) as other:
        assert other.submit(store.load, "key").result(PATIENCE) is None
    store.save("key", b"late")

    assert store_of(rt).load("key") == b"late"

    store.close()


def test_without_a_load_it_is_kept_as_well(store: Store) -> None:
    """A plain mapping can be filled by hand."""
    store.save("key", b"code")

    assert store.load("key") == b"code"
    assert store.remove("key")
    assert not store.remove("key")


def test_clearing_removes_those_of_the_peer(store: Store, rt: ajit.BlockingRuntime) -> None:
    """And no others."""
    other = Store(rt, "another.peer:compile", "another 1.0")
    for each in (store, other):
        each.save("key", b"code")
    store.clear()

    assert (store.count(), other.count()) == (0, 1)


def test_clearing_fails_where_entries_cannot_be_listed(
    store: Store, options: dict[str, Any]
) -> None:
    """The caller believes afterwards that all are gone."""
    store.save("key", b"code")
    with FakeFileSystem(f"{options['cache_dir']}/entries") as system:
        system.fail("scandir")
        with pytest.raises(OSError, match="Input/output error"):
            store.clear()

    assert store.count() == 1


def test_damaged_bytes_are_not_returned(store: Store, tmp_path: Path) -> None:
    """They are a miss, and are replaced."""
    store.save("key", b"code-code-code")
    (entry,) = (tmp_path / "cache").glob("entries/*/*.ajit")
    entry.chmod(0o600)
    data = entry.read_bytes()
    entry.write_bytes(data.replace(b"code-code-code", b"code-EVIL-code"))

    assert store.load("key") is None
    store.save("key", b"code-code-code")
    assert store.load("key") == b"code-code-code"


def test_after_the_runtime_the_peer_works_alone(options: dict[str, Any]) -> None:
    """A closed runtime is a miss, with one warning, and never an error of the peer."""
    with ajit.open_blocking_runtime(**options) as rt:
        store = store_of(rt)
    with pytest.warns(ajit.AjitWarning, match="compiles by itself"):
        assert store.load("key") is None
    store.save("key", b"code")


@pytest.mark.anyio
async def test_on_the_loops_own_thread_it_is_refused(options: dict[str, Any]) -> None:
    """It would stop the loop that it waits for; in a thread it works."""
    async with ajit.open_runtime(**options) as rt:
        store = store_of(rt)
        with pytest.raises(ajit.UsageError, match="event loop"):
            store.load("key")

        assert await anyio.to_thread.run_sync(store.load, "key") is None
        await anyio.to_thread.run_sync(store.save, "key", b"code")
        assert await anyio.to_thread.run_sync(store.load, "key") == b"code"
