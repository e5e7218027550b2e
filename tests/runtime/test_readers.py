"""A process that trusts signatures and has no signing key loads, and keeps nothing of its own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

import ajit
from ajit import events
from ajit._cache.files import signing
from tests.runtime.processes import Peer
from tests.runtime.sources import ARCH, SAXPY

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    """A signing key and its public half, as settings name them."""
    pytest.importorskip("cryptography", reason="signatures need cryptography: ajit[sign]")
    private, public, _ = signing.make_pair()
    (tmp_path / "ci.key").write_bytes(private)
    (tmp_path / "ci.key").chmod(0o600)
    (tmp_path / "ci.pub").write_bytes(public)
    (tmp_path / "ci.pub").chmod(0o644)
    return {"signing": str(tmp_path / "ci.key"), "public": str(tmp_path / "ci.pub")}


@pytest.mark.anyio
async def test_a_reader_loads_what_was_signed(options, compiler, pair):
    """Of another runtime, which has the signing key."""
    async with ajit.open_runtime(**options, signing_key_file=pair["signing"]) as rt:
        await rt.compile(SAXPY, arch=ARCH)
    async with ajit.open_runtime(**options, public_key_files=pair["public"]) as rt:
        resolution = await rt.resolve(SAXPY, arch=ARCH)

    assert resolution.tier == "disk"
    assert compiler.started == 1


@pytest.mark.anyio
async def test_a_reader_compiles_for_itself_alone(options, compiler, pair, cache_dir, nothing_left):
    """Without a lease, since no waiter would have anything of it; and it says that, and why."""
    seen: list[events.Event] = []
    settings = {**options, "public_key_files": pair["public"]}
    with pytest.warns(ajit.AjitWarning, match="this process has no signing key"):  # noqa: PT031  # a runtime has a block
        async with ajit.open_runtime(**settings, subscribers=[seen.append]) as rt:
            resolution = await rt.resolve(SAXPY, arch=ARCH)
            nothing_left(open_runtime=True)

    assert resolution.tier == "compiled"
    [lease] = [event for event in seen if isinstance(event, events.LocksUnavailable)]
    [unwritable] = [event for event in seen if isinstance(event, events.CacheUnwritable)]
    assert "without a signing key" in lease.reason
    assert "no signing key" in unwritable.reason
    assert not list(cache_dir.glob("entries/*/*"))


@pytest.fixture
def start(options):
    """Start processes on the cache; all of them have ended when the test has."""
    with contextlib.ExitStack() as stack:

        def start(backend, **changes):
            peer = stack.enter_context(Peer({**options, **changes}, backend))
            peer.hear("ready")
            peer.go()
            return peer

        yield start


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_reader_waits_for_one_who_signs(start, compiler, pair, backend):
    """As anybody does: its lease is held, it beats, and its beats are signed."""
    compiler.hold()
    signer = start("asyncio", signing_key_file=pair["signing"])
    signer.hear_event("CompileStarted")
    reader = start(backend, public_key_files=pair["public"], patience_seconds=2.0)
    reader.hear(lambda line: line.get("waited_seconds", 0) > 4.0)
    compiler.let_go()

    assert (signer.answer()["answer"], reader.answer()["answer"]) == ("compiled", "disk")
    assert compiler.started == 1


def test_readers_do_not_wait_for_each_other(start, compiler, pair):
    """Each has to compile for itself: one after the other would take as long as all together."""
    compiler.hold()
    readers = [start(name, public_key_files=pair["public"]) for name in ("asyncio", "trio")]
    for reader in readers:
        reader.hear_event("CompileStarted")
    compiler.let_go()

    assert [reader.answer()["answer"] for reader in readers] == ["compiled", "compiled"]
    assert not any(reader.events("Waiting") for reader in readers)


def test_a_reader_that_wins_the_lease_of_a_failed_signer_gives_it_back(start, compiler, pair):
    """It waited for the signer, which was killed; then it is on its own, like any other reader."""
    compiler.hold()
    signer = start("asyncio", signing_key_file=pair["signing"])
    signer.hear_event("CompileStarted")
    first, second = (start(name, public_key_files=pair["public"]) for name in ("asyncio", "trio"))
    for reader in (first, second):
        reader.hear_event("Waiting")
    signer.send(9)
    for reader in (first, second):
        reader.hear_event("CompileStarted")
    compiler.let_go()

    assert [reader.answer()["answer"] for reader in (first, second)] == ["compiled", "compiled"]
