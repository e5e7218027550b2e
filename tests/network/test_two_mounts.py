"""One kernel, wanted on two mounts of a network file system at once: compiled once.

The mounts are clients of their own, so what one of them writes the other one shows later, and a
lock that one of them gives the other one knows nothing of.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time

import pytest

from ajit._cache.files.file_system import is_shared_between_nodes, mount_of
from tests.cache.leases.test_peer_probe import probes
from tests.network.conftest import PATIENCE_SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

COMPILE_SECONDS = 10.0
"""A compile and what comes with it, with eight servers on two cores. Far above what it takes."""


def all_ready(*peers):
    """Wait until every process has opened its runtime, then let them all go."""
    for peer in peers:
        peer.hear("ready")
    for peer in peers:
        peer.go()


def the_one_that_compiles(peers):
    """Wait until one process compiles and each other waits for it; return it, then the others."""
    said = {peer: peer.hear(lambda line: line.get("event") in _BEGUN)["event"] for peer in peers}
    (holder,) = (peer for peer, event in said.items() if event == "CompileStarted")
    return holder, [peer for peer in peers if peer is not holder]


_BEGUN = ("CompileStarted", "Waiting")


def tell(capsys, what, seconds, compiler):
    """Say what it cost."""
    with capsys.disabled():
        sys.stdout.write(f"\n  {what}: {seconds:.1f} s, {compiler.started} compiles begun\n")


def until_started(compiler, count):
    """Wait until that many compiles have been started."""
    deadline = time.monotonic() + 60
    while compiler.started < count:
        assert time.monotonic() < deadline, f"only {compiler.started} compiles are started"
        time.sleep(0.01)


@contextlib.contextmanager
def stopped(peer):
    """A process that is stopped for the time of a block."""
    peer.send(signal.SIGSTOP)
    try:
        yield
    finally:
        peer.send(signal.SIGCONT)


def test_type_of_the_file_system_tells_that_nodes_may_share_it(weed):
    """It is found by the mount; the folder beside it is on another one."""
    for place in weed.places:
        fd = os.open(place, os.O_RDONLY)
        assert "fuse.seaweedfs" == mount_of(str(place), fd).kind
        os.close(fd)
    fd = os.open(weed.folder, os.O_RDONLY)
    assert not is_shared_between_nodes(mount_of(str(weed.folder), fd).kind)
    os.close(fd)


def test_locks_stay_on_their_mount_here(weed):
    """So both get the lock of one file: what the claims are there for."""
    (weed.places[0] / "file").write_text("")
    files = [(place / "file").open("r+") for place in weed.places]
    for file in files:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for file in files:
        file.close()


def test_eight_processes_on_two_mounts_compile_once(start, compiler):
    """The kind of lease is found by the file system's type."""
    peers = [*start(4, mount=0), *start(4, mount=1)]
    all_ready(*peers)
    answers = [peer.answer()["answer"] for peer in peers]

    assert ["compiled", *["disk"] * 7] == sorted(answers)
    assert 1 == compiler.started


def test_with_locks_alone_each_mount_compiles(start, compiler):
    """As it was, and is if one asks for it."""
    peers = [*start(4, mount=0, lease="locks"), *start(4, mount=1, lease="locks")]
    compiler.hold()
    all_ready(*peers)
    until_started(compiler, 2)
    compiler.let_go()
    for peer in peers:
        assert peer.answer()["answer"] in ("compiled", "disk")


def test_holder_that_is_stopped_in_mid_compile_costs_one_compile_more(start, compiler, capsys):
    """One of the other mount follows it, before the seven lose patience."""
    peers = [*start(4, mount=0), *start(4, mount=1)]
    compiler.hold()
    all_ready(*peers)
    until_started(compiler, 1)
    holder, waiters = the_one_that_compiles(peers)
    with stopped(holder):
        begun = time.monotonic()
        compiler.let_go()
        answers = [peer.answer()["answer"] for peer in waiters]
        seconds = time.monotonic() - begun

    tell(capsys, "holder stopped", seconds, compiler)
    assert ["compiled", *["disk"] * 6] == sorted(answers)
    assert 2 == compiler.started
    assert seconds < PATIENCE_SECONDS + COMPILE_SECONDS
    assert holder.answer()["answer"] in ("compiled", "disk")


def test_mount_that_hangs_under_the_holder_stops_no_one_on_the_other(start, compiler, weed, capsys):
    """Its node has vanished, for all that the other one can see."""
    peers = [*start(4, mount=0), *start(4, mount=1)]
    compiler.hold()
    all_ready(*peers)
    until_started(compiler, 1)
    holder, _ = the_one_that_compiles(peers)
    mount = 0 if holder in peers[:4] else 1
    here, there = (peers[:4], peers[4:]) if mount == 0 else (peers[4:], peers[:4])
    weed.freeze(mount)
    try:
        begun = time.monotonic()
        compiler.let_go()
        answers = [peer.answer()["answer"] for peer in there]
        seconds = time.monotonic() - begun
    finally:
        weed.thaw(mount)

    tell(capsys, "mount stopped", seconds, compiler)
    assert ["compiled", *["disk"] * 3] == sorted(answers)
    assert seconds < PATIENCE_SECONDS + COMPILE_SECONDS
    for peer in here:
        assert peer.answer()["answer"] in ("compiled", "disk")


def test_server_that_restarts_in_mid_compile_costs_no_more_than_patience(
    start, compiler, weed, capsys
):
    """All are served once the server is up again, from the one compile that was under way.

    If it is down for longer than the patience, each of them may have lost that with its silence.
    """
    peers = [*start(4, mount=0), *start(4, mount=1)]
    compiler.hold()
    all_ready(*peers)
    until_started(compiler, 1)
    the_one_that_compiles(peers)
    weed.stop_server()
    down = time.monotonic()
    weed.start_server()
    compiler.let_go()
    weed.see_all_up()
    begun = time.monotonic()
    answers = [peer.answer()["answer"] for peer in peers]
    seconds = time.monotonic() - begun

    tell(capsys, f"server restarted, down for {begun - down:.1f} s", seconds, compiler)
    assert "compiled" in answers
    assert compiler.started <= (2 if begun - down < PATIENCE_SECONDS else len(peers))
    assert seconds < PATIENCE_SECONDS + COMPILE_SECONDS


def test_two_probes_on_two_mounts_tell_what_excludes_here(weed, capsys):
    """What leases rest on does; the locks do not."""
    one, two = probes(*(place / "cache" for place in weed.places))

    with capsys.disabled():
        sys.stdout.write(f"\n  excludes between two mounts: {one}\n")
    assert one == two
    assert one["mkdir"]
    assert not one["fcntl"]
