"""Several ranks make ready what a record lists: once each, together, and without the dead."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal

import anyio
import pytest

import ajit
from ajit._runtime.record_files import read_record
from tests.runtime.processes import Peer
from tests.runtime.sources import ARCH, SAXPY_SOURCE, saxpy

KERNELS = 12
BACKENDS = ("asyncio", "trio", "asyncio+uvloop")


class RankPeer(Peer):
    """A rank in a process of its own."""

    def __init__(self, settings, replay, backend, **more) -> None:
        order = {"backend": backend, "settings": settings, "replay": replay, **more}
        self._start("tests.runtime.rank_main", order)

    def end(self) -> None:
        """Let it close its runtime, and wait for its end."""
        self.go()
        assert self.wait() == 0

    def answer(self):
        """What it ends with."""
        return super().answer().get("answer") or self.lines[-1]

    def compiles(self) -> list[str]:
        """The keys that it compiled, as far as heard."""
        return [line["key"] for line in self.events("CompileStarted")]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A record of some kernels, written by a first start."""
    return tmp_path_factory.mktemp("kept") / "used.ajit"


@pytest.fixture
def path(kept, options, tmp_path):
    """The record of a first start, whose cache is gone."""
    target = tmp_path / "used.ajit"
    if not kept.exists():

        async def first_start() -> None:
            changes = {"cache_dir": str(tmp_path / "first"), "record": str(kept)}
            async with ajit.open_runtime(**{**options, **changes}) as rt:
                for variant in range(KERNELS):
                    await rt.compile(saxpy(variant), arch=ARCH)

        anyio.run(first_start)
    shutil.copytree(kept, target)
    return target


@pytest.fixture
def start(options, path):
    """Start ranks on an empty cache; all of them have ended when the test has."""
    with contextlib.ExitStack() as stack:

        def start(ranks, rank, *, changes=(), **more):
            replay = {"path": str(path), "ranks": ranks, "rank": rank, **more.pop("replay", {})}
            settings = {**options, "compile_slots": 2, **dict(changes)}
            backend = BACKENDS[rank % len(BACKENDS)]
            return stack.enter_context(RankPeer(settings, replay, backend, **more))

        yield start


def go_together(peers):
    """Wait until every process has opened its runtime, then let them all go."""
    for peer in peers:
        peer.hear("ready")
    for peer in peers:
        peer.go()


@pytest.mark.slow
def test_eight_ranks_compile_each_kernel_once_and_only_their_share(start, compiler, path):
    """On three event loops; and each of them has everything when it says that it is ready."""
    before = compiler.started
    peers = [start(8, rank) for rank in range(8)]
    go_together(peers)
    answers = [peer.answer() for peer in peers]
    for peer in peers:
        peer.end()

    assert [answer["total"] for answer in answers] == [KERNELS] * 8
    assert sum(answer["share"] for answer in answers) == KERNELS
    assert [answer["compiled"] for answer in answers] == [answer["share"] for answer in answers]
    assert [answer["from_disk"] for answer in answers] == [
        KERNELS - answer["share"] for answer in answers
    ]
    keys = [key for peer in peers for key in peer.compiles()]
    assert len(keys) == len(set(keys)) == KERNELS
    assert compiler.started - before == KERNELS


@pytest.mark.slow
def test_a_rank_that_is_killed_is_named_while_the_others_are_at_work(start, compiler, path):
    """Within seconds, for its process is known to be gone; no wait is endless."""
    compiler.hold()
    peers = [start(4, rank) for rank in range(4)]
    go_together(peers)
    for peer in peers:
        peer.hear_event("CompileStarted")
    peers[3].send(signal.SIGKILL)
    peers[3].wait()
    failures = [peer.answer() for peer in peers[:3]]
    compiler.let_go()
    for peer in peers[:3]:
        peer.end()

    for failure in failures:
        assert failure["failure"] == "RanksNotReady"
        assert [rank for rank, _ in failure["missing"]] == [3]
        assert "its process is gone" in failure["text"]
        assert f"pid {peers[3].pid}" in failure["text"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_work_of_a_killed_rank_is_done_by_the_others(start, compiler, path):
    """`warmup` names no rank: it has everything when it returns."""
    compiler.hold()
    changes = {"patience_seconds": 60.0}
    peers = [start(3, rank, changes=changes, only_warmup=True) for rank in range(3)]
    for peer in peers:
        # One that was killed before the others have seen it may still come: for START_SECONDS.
        peer.hear_seconds = 200.0
    go_together(peers)
    for peer in peers:
        peer.hear_event("CompileStarted")
    peers[2].send(signal.SIGKILL)
    peers[2].wait()
    compiler.let_go()
    answers = [peer.answer() for peer in peers[:2]]
    for peer in peers[:2]:
        peer.end()

    for answer in answers:
        assert answer["compiled"] + answer["from_disk"] == KERNELS
        assert not answer["failures"]
    lost = KERNELS - sum(answer["share"] for answer in answers)
    assert sum(answer["compiled"] for answer in answers) == KERNELS
    assert lost > 0


@pytest.mark.slow
def test_a_rank_whose_kernels_fail_is_named_with_its_error(start, compiler, path, tmp_path):
    """Its compiler is broken: the others make its share, and say why it is not ready."""
    broken = tmp_path / "broken-c++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] || kill -SEGV $$\nexec c++ "$@"\n')
    broken.chmod(0o755)
    peers = [
        start(3, rank, changes={"host_compiler": str(broken)} if rank == 1 else {})
        for rank in range(3)
    ]
    go_together(peers)
    answers = [peer.answer() for peer in peers]
    for peer in peers:
        peer.end()

    for answer in answers:
        assert answer["failure"] == "RanksNotReady", answer
        assert [rank for rank, _ in answer["missing"]] == [1]
        assert "failed" in answer["text"]
        assert "saxpy" in answer["text"]


@pytest.mark.slow
def test_a_rank_that_never_starts_is_named_when_its_time_is_over(start, path):
    """No more than that is known of it."""
    peer = start(2, 0, replay={"start_seconds": 3.5}, changes={"patience_seconds": 2.0})
    go_together([peer])
    answer = peer.answer()
    peer.end()

    assert answer["failure"] == "RanksNotReady"
    assert [rank for rank, _ in answer["missing"]] == [1]
    assert "rank 1 is missing" in answer["text"]


@pytest.mark.slow
def test_a_second_start_believes_no_post_of_the_first(start, compiler, path, cache_dir):
    """The posts of the first say that all is ready; the cache has lost its kernels meanwhile."""
    for _ in range(2):
        before = compiler.started
        peers = [start(2, rank) for rank in range(2)]
        go_together(peers)
        answers = [peer.answer() for peer in peers]
        for peer in peers:
            peer.end()
        assert [answer["compiled"] for answer in answers] == [KERNELS // 2] * 2
        assert compiler.started - before == KERNELS
        assert len(list(cache_dir.glob("locks/ra/*/*"))) == 2
        shutil.rmtree(cache_dir / "entries")
        shutil.rmtree(cache_dir / "reads")


def test_the_record_has_what_the_tests_think(path):
    """Of specs only."""
    record = read_record(path)

    assert len(record.uses) == KERNELS
    assert json.loads(bytes(next(iter(record.uses.values())).build))["name"] == "saxpy"
    assert list(record.texts.values()) == [SAXPY_SOURCE]
