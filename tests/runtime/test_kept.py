"""What a peer has compiled in its caller: recorded, and made ready again where the cache has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

import ajit
from ajit._core.record import Record
from ajit._runtime.kept import kept_build, note_kept, register_remaker
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


async def replayed(
    options: dict[str, Any],
    tmp_path: Path,
    *,
    remakes: bool = True,
    mode: int = 0o700,
    later: dict[str, Any] | None = None,
) -> Any:
    """Record a kernel with a recipe, and start with another cache; return report and recipes."""
    build = kept_build("peer.of.tests:compile", "it", "peer 1.0", "a")
    async with ajit.open_runtime(**options):
        note_kept("tests", "", build, 0.0, lambda: "how to make it")
    (tmp_path / "used").chmod(mode)
    followed: list[str] = []
    async with ajit.open_runtime(**options | (later or {})) as rt:

        async def remake(recipe: str) -> Any:
            followed.append(recipe)
            store = store_of(rt)
            await anyio.to_thread.run_sync(store.load, "b")
            await anyio.to_thread.run_sync(store.save, "b", b"code")
            return kept_build("peer.of.tests:compile", "peer.of.tests b", "peer 1.0", "b")

        undo = register_remaker("tests", remake) if remakes else lambda: None
        try:
            return await rt.warmup(ajit.replay(options["record"])), followed
        finally:
            undo()


async def test_what_has_a_recipe_is_made_again(options: dict[str, Any], tmp_path: Path) -> None:
    """By the peer's adapter, under the key that it has now."""
    report, followed = await replayed(options, tmp_path)

    assert (report.unresolved, report.failures) == ((), ())
    assert followed == ["how to make it"]


async def test_without_the_adapter_its_recipe_is_not_followed(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """The line says what is missing."""
    report, _ = await replayed(options, tmp_path, remakes=False)

    assert "install the adapter of tests" in report.unresolved[0].reason


async def test_a_recipe_that_others_may_have_written_is_not_followed(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """It names code to be run."""
    report, followed = await replayed(options | {"allow_unsafe_cache": True}, tmp_path, mode=0o777)

    assert "other users may write" in report.unresolved[0].reason
    assert not followed


SECRET = {"trust": "hmac", "hmac_key": "a secret of this test"}


@pytest.mark.parametrize("sealed", [True, False])
async def test_where_seals_are_asked_for_a_recipe_has_one(
    options: dict[str, Any], tmp_path: Path, *, sealed: bool
) -> None:
    """One without is not followed."""
    before = options | SECRET if sealed else options
    report, followed = await replayed(before, tmp_path, later=SECRET)

    reasons = [line.reason for line in report.unresolved]
    assert followed == (["how to make it"] if sealed else [])
    assert sealed == (not reasons)
    assert all("only with a seal" in reason for reason in reasons)
