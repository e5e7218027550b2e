"""Posts of ranks: written in place, read whole or not at all, and of no other rank."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.posts import RankPost, RankPosts, group_name
from ajit._core.readiness import Phase
from ajit._core.seal import HmacKey, Trust
from ajit._system.process import this_process

GROUP = group_name("job", 2)
SECRET = b"a secret of thirty-two bytes ...."


@pytest.fixture
def directory(tmp_path):
    """A cache."""
    return open_cache_directory(tmp_path / "cache")


@pytest.fixture
def file(directory):
    """The post of rank 0."""
    return Path(directory.path) / "locks" / "ra" / GROUP / "0"


def a_post(**changes):
    """What this process might say."""
    us = this_process()
    facts = {
        "session": "1", "phase": Phase.WORKING, "beat": 1, "echoes": ("", "7"),
        "host": us.host, "pid": us.pid, "boot_id": us.boot_id, "namespace": us.namespace,
        "start_ticks": us.start_ticks,
    }  # fmt: skip
    return RankPost(**facts | changes)


def test_a_post_is_read_as_it_was_written(directory, file):
    """Also one that is shorter than the one before, in the same file."""
    posts = RankPosts(directory, GROUP)
    assert posts.read(0) is None
    posts.write(0, a_post(detail="x" * 500))
    inode = file.stat().st_ino
    posts.write(0, a_post(beat=2))

    assert posts.read(0) == a_post(beat=2)
    assert posts.read(1) is None
    assert file.stat().st_ino == inode
    assert file.stat().st_mode & 0o777 == 0o600
    assert not posts.read(0).is_dead


def test_a_post_that_is_being_written_is_none(directory, file):
    """Each cut of it, and each of an older one's end behind it."""
    posts = RankPosts(directory, GROUP)
    posts.write(0, a_post())
    whole = file.read_bytes()

    for size in range(len(whole) - 1):
        file.write_bytes(whole[:size])
        assert posts.read(0) is None, size
    file.write_bytes(whole.replace(b'"beat":1', b'"beat":2'))
    assert posts.read(0) is None


def test_a_post_of_a_process_that_is_gone_says_so(directory):
    """Of this machine; of others nothing is known."""
    assert a_post(pid=2**22 - 3).is_dead
    assert a_post(start_ticks=1).is_dead
    assert not a_post(pid=2**22 - 3, boot_id="another").is_dead


def test_a_post_without_a_good_seal_is_none(directory, file):
    """Nor is one that was copied from another rank."""
    sealed = RankPosts(directory, GROUP, Trust("hmac", [HmacKey(SECRET)]))
    plain = RankPosts(directory, GROUP)
    plain.write(0, a_post())
    assert sealed.read(0) is None
    sealed.write(0, a_post())
    assert sealed.read(0) == a_post()
    (file.parent / "1").write_bytes(file.read_bytes())
    (file.parent / "1").chmod(0o600)

    assert sealed.read(1) is None
    assert plain.read(1) == a_post()


def test_what_lies_in_a_posts_place_is_replaced(directory, file, tmp_path):
    """A link is not followed, nor written through."""
    posts = RankPosts(directory, GROUP)
    posts.write(0, a_post())
    precious = tmp_path / "precious"
    precious.write_text("precious")
    file.unlink()
    file.symlink_to(precious)

    assert posts.read(0) is None
    posts.write(0, a_post())
    assert posts.read(0) == a_post()
    assert precious.read_text() == "precious"


def test_posts_of_yesterday_are_swept_and_todays_are_kept(directory, file):
    """With their folder; other files are left alone."""
    old, new = group_name("old", 1), GROUP
    for group in (old, new):
        RankPosts(directory, group).write(0, a_post())
    os.utime(file.parent.parent / old / "0", (1, 1))
    RankPosts(directory, new).sweep()

    assert [folder.name for folder in file.parent.parent.iterdir()] == [new]
