"""A cache whose file system hangs: the page says so, and shows the rest."""

from __future__ import annotations

import json
import os
import urllib.request

import pytest

from ajit._cache.files.directory import open_cache_directory
from tests.cache.helpers import poll
from tests.dashboard.hostile import write_board
from tests.dashboard.served import Served
from tests.fuse.mounts import Mount, why_no_fuse

pytestmark = [
    pytest.mark.skipif(bool(why_no_fuse()), reason=why_no_fuse()),
    pytest.mark.slow,  # it is said to hang after ten seconds
]


@pytest.fixture
def mount(tmp_path):
    """A file system of this test's own."""
    with Mount(tmp_path / "fuse") as mounted:
        yield mounted


def test_a_cache_that_hangs_is_told_and_holds_up_nothing(mount, tmp_path):
    """Boards are shown meanwhile, and the cache again when it answers."""
    boards = tmp_path / "boards"
    boards.mkdir()
    cache_dir = mount.path / "cache"
    open_cache_directory(cache_dir)
    write_board(boards, cache_dir)
    with Served(cache_dir, boards) as served:

        def snapshot():
            with urllib.request.urlopen(f"{served.url}snapshot.json", timeout=60) as answer:  # noqa: S310  # our own server
                return json.load(answer)

        poll(lambda: snapshot()["cache"]["looked_seconds"] is not None)
        mount.stop()
        hung = poll(lambda: "not answered for" in (s := snapshot())["cache"]["problem"] and s)
        later = poll(lambda: (s := snapshot())["unix_seconds"] > hung["unix_seconds"] and s)
        mount.go_on()
        well = poll(lambda: not (s := snapshot())["cache"]["problem"] and s)

    assert "bad" == hung["headline"]["level"]
    assert "The cache: its file system has not answered for" in json.dumps(hung["headline"])
    assert [os.getpid()] == [one["pid"] for one in later["processes"]]
    assert 0 == well["cache"]["entries"]
