"""What a peer has compiled in its caller: recorded, and made ready again where the cache has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

import ajit
from ajit._core.record import Record
from ajit._runtime.record_files import read_record
from ajit.integrations._store import Store

pytestmark = pytest.mark.anyio


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Arguments of a runtime that records."""
    return {
        "cache_dir": str(tmp_path / "cache"),
        "views_dir": str(tmp_path / "views"),
        "device": "none",
        "record": str(tmp_path / "used"),
    }


def store_of(rt: Any) -> Store:
    """The store of a peer that there is not."""
    return Store(rt, "peer.of.tests:compile", "peer 1.0", peer="tests")


def used(options: dict[str, Any], keys: list[str]) -> None:
    """Let a peer use kernels."""
    with ajit.open_blocking_runtime(**options) as rt:
        store = store_of(rt)
        for key in keys:
            if store.load(key) is None:
                store.save(key, b"code")
        store.close()


def recorded(path: str) -> dict[str, tuple[str, int]]:
    """What a record says: kernel, whose it is, how often it was used."""
    record = Record()
    read_record(Path(path), record=record, allow_unsafe=False)
    return {use.name: (use.peer, use.count) for use in record.finished()}


def test_it_is_recorded_with_its_peer(options: dict[str, Any]) -> None:
    """Made or found, each use counts."""
    used(options, ["a", "b", "a"])

    assert recorded(options["record"]) == {
        "peer.of.tests a": ("tests", 2),
        "peer.of.tests b": ("tests", 1),
    }


async def test_its_replay_makes_the_view(options: dict[str, Any], tmp_path: Path) -> None:
    """Nothing is compiled, and no lease is taken."""
    await anyio.to_thread.run_sync(used, options, ["a"])
    options |= {"views_dir": str(tmp_path / "other views")}
    async with ajit.open_runtime(**options) as rt:
        report = await rt.warmup(ajit.replay(options["record"]))

    assert (report.unresolved, report.failures) == ((), ())
    assert [path.name for path in (tmp_path / "other views").rglob("code")] == ["code"]


async def test_what_the_cache_has_no_more_is_unresolved(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """It is no failure: the peer makes it when it is asked for."""
    await anyio.to_thread.run_sync(used, options, ["a"])
    options |= {"cache_dir": str(tmp_path / "another cache")}
    async with ajit.open_runtime(**options) as rt:
        report = await rt.warmup(ajit.replay(options["record"]))

    assert [line.reason for line in report.unresolved] == [
        "the cache has it no more, and tests alone can make it"
    ]
    assert not report.failures
