"""Publishing: whole files, create-only, synced, and nothing left behind."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from pathlib import Path

import pytest

from ajit._cache.entries import disk
from ajit._cache.entries.disk import DiskStore, Found, Lost, Published, PublishFailed, Rejected
from ajit._cache.files import fs
from ajit._cache.files.directory import open_cache_directory
from ajit._system.process import this_process
from tests.cache.artifacts import a_key, an_artifact
from tests.cache.helpers import entry_file, open_files, temporaries

KEY = a_key()


def failing(code: int):
    """A call that fails."""

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_published_entry_is_found(store: DiskStore):
    """An artifact comes back equal, from another store on the same directory as well."""
    artifact = an_artifact(KEY, b"\0" * 100_000)

    published = store.publish(artifact)
    lookup = DiskStore(open_cache_directory(store.directory.path)).read(KEY)

    size_bytes = entry_file(store, KEY).stat().st_size
    assert published == Published("link", size_bytes)
    assert lookup == Found(artifact, size_bytes)
    assert temporaries(store) == []


def test_the_second_to_publish_loses_and_changes_nothing(store: DiskStore):
    """Publishing is create-only: the first entry stays as it is."""
    store.publish(an_artifact(KEY, b"first"))
    before = entry_file(store, KEY).stat()

    result = store.publish(an_artifact(KEY, b"second"))

    after = entry_file(store, KEY).stat()
    assert result == Lost()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert store.read(KEY).artifact.data == b"first"
    assert temporaries(store) == []


@pytest.mark.parametrize("replace", [False, True])
def test_a_bad_entry_is_replaced(store: DiskStore, replace: bool):  # noqa: FBT001 - a parameter
    """Asked to or not; a reader that has it open keeps reading."""
    store.publish(an_artifact(KEY))
    entry_file(store, KEY).write_bytes(b"broken")
    with entry_file(store, KEY).open("rb") as reader:
        assert isinstance(store.read(KEY), Rejected)

        result = store.publish(an_artifact(KEY, b"good"), replace=replace)

        assert isinstance(result, Published)
        assert result.method == "rename"
        assert reader.read() == b"broken"
    assert store.read(KEY).artifact.data == b"good"


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize(
    "kind", ["link", "dangling link", "FIFO", "directory", "full directory", "unreadable"]
)
def test_what_is_no_entry_is_replaced(
    store: DiskStore,
    tmp_path: Path,
    kind: str,
    replace: bool,  # noqa: FBT001 - a parameter
):
    """Whatever has the entry's name: it is rejected, replaced, and the entry is found then."""
    if kind == "unreadable" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    entry = entry_file(store, KEY)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    put_in_place(entry, kind, elsewhere)

    assert isinstance(store.read(KEY), Rejected)
    assert isinstance(store.publish(an_artifact(KEY, b"good"), replace=replace), Published)

    found = store.read(KEY)
    assert isinstance(found, Found)
    assert found.artifact.data == b"good"
    assert elsewhere.read_text() == "precious"
    kept = list(Path(store.directory.path).glob("tmp/*/note"))
    assert [note.read_text() for note in kept] == ["kept"] * (kind == "full directory")


def put_in_place(entry: Path, kind: str, elsewhere: Path) -> None:
    """Put something that is no entry in an entry's place."""
    entry.parent.mkdir(mode=0o700)
    if kind == "FIFO":
        os.mkfifo(entry)
    elif "link" in kind:
        entry.symlink_to(elsewhere if kind == "link" else elsewhere / "gone")
    elif "directory" in kind:
        entry.mkdir()
        if kind == "full directory":
            (entry / "note").write_text("kept")
    else:
        entry.write_bytes(b"secret")
        entry.chmod(0)


def test_what_cannot_be_read_back_was_not_stored(store: DiskStore, monkeypatch):
    """A disk that takes the bytes and gives others back is told as one that takes none."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(len(data))))

    result = store.publish(an_artifact(KEY))

    assert isinstance(result, PublishFailed)
    assert "cannot be read back" in result.reason
    assert temporaries(store) == []


def test_bytes_are_synced_before_the_name_and_the_name_after(store: DiskStore, monkeypatch):
    """The order that survives a crash: write, sync the file, name it, sync the directory."""
    store.publish(an_artifact(KEY))  # makes the directories
    store.remove(KEY)
    steps = []

    def recorded(name: str):
        real = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            kind = "file"
            if name == "fsync":
                kind = "directory" if Path(f"/proc/self/fd/{args[0]}").is_dir() else "file"
            steps.append((name, kind))
            return real(*args, **kwargs)

        return call

    for name in ("write", "fsync", "link"):
        monkeypatch.setattr(os, name, recorded(name))
    store.publish(an_artifact(KEY))

    expected = [("write", "file"), ("fsync", "file"), ("link", "file"), ("fsync", "directory")]
    assert steps == expected


def test_short_writes_are_continued(store: DiskStore, monkeypatch):
    """A file system that takes a few bytes at a time gets all of them."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:97]))

    store.publish(an_artifact(KEY, bytes(1000)))

    assert isinstance(store.read(KEY), Found)


@pytest.mark.parametrize("call", ["write", "fsync", "link", "open", "fchmod"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_failure_leaves_nothing_behind(store: DiskStore, monkeypatch, call: str, code: int):
    """Whichever step fails: a reason is returned, no entry, no temporary file, no descriptor."""
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(code))
        result = store.publish(an_artifact(KEY))

    assert isinstance(result, PublishFailed)
    assert os.strerror(code) in result.reason
    assert not entry_file(store, KEY).exists()
    assert temporaries(store) == []
    assert open_files(store.directory.path) == []


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_system_that_says_there_is_one_where_none_is_fails(
    store: DiskStore, monkeypatch, *, replace: bool
):
    """Also where the name of the temporary file is taken: it is tried once more, and no further."""
    monkeypatch.setattr(disk.fs, "publish_file", failing(errno.EEXIST))
    result = store.publish(an_artifact(KEY), replace=replace)

    assert isinstance(result, PublishFailed)
    assert "cannot be read back" in result.reason


def test_a_full_disk_fails_and_leaves_nothing_behind(small_disk: Path):
    """On a file system that is really full the old entries stay good and no file stays behind."""
    store = DiskStore(open_cache_directory(small_disk / "cache"))
    store.publish(an_artifact(a_key("old"), bytes(10_000)))
    free_before = shutil.disk_usage(small_disk).free

    result = store.publish(an_artifact(a_key("new"), bytes(1_000_000)))

    assert isinstance(result, PublishFailed)
    assert "No space left" in result.reason
    assert temporaries(store) == []
    assert shutil.disk_usage(small_disk).free == free_before
    assert isinstance(store.read(a_key("old")), Found)
    assert isinstance(store.publish(an_artifact(a_key("small"))), Published)


def test_a_file_size_limit_fails_and_leaves_nothing_behind(start_peer, store: DiskStore):
    """A process that may not write files that large fails after its first bytes, cleanly."""
    peer = start_peer()
    resource.prlimit(peer.pid, resource.RLIMIT_FSIZE, (100, 100))

    answer = peer.ask("publish", KEY, "x" * 1000)

    assert (answer["outcome"], "too large" in answer["reason"]) == ("PublishFailed", True)
    assert temporaries(store) == []
    assert not entry_file(store, KEY).exists()


def test_without_hard_links_a_rename_that_replaces_nothing_is_used(store: DiskStore, monkeypatch):
    """Where link is not supported, publishing is still create-only."""
    monkeypatch.setattr(os, "link", failing(errno.EPERM))

    first = store.publish(an_artifact(KEY, b"first"))
    second = store.publish(an_artifact(KEY, b"second"))

    assert isinstance(first, Published)
    assert (first.method, second) == ("rename-noreplace", Lost())
    assert store.read(KEY).artifact.data == b"first"
    assert temporaries(store) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_without_both_a_plain_rename_is_used(store: DiskStore, monkeypatch, code: int):
    """Where neither is supported, an entry that is there already is still left alone."""
    monkeypatch.setattr(os, "link", failing(errno.EOPNOTSUPP))
    monkeypatch.setattr(fs, "_renameat2", failing(code))

    first = store.publish(an_artifact(KEY, b"first"))
    second = store.publish(an_artifact(KEY, b"second"))

    assert isinstance(first, Published)
    assert (first.method, second) == ("rename", Lost())
    assert store.read(KEY).artifact.data == b"first"
    assert temporaries(store) == []


def test_a_link_whose_reply_was_lost_counts_as_published(store: DiskStore, monkeypatch):
    """NFS: the server links, the reply is lost, the repeated request says that the name exists."""
    real = os.link

    def link_and_lose_the_reply(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "link", link_and_lose_the_reply)

    assert isinstance(store.publish(an_artifact(KEY)), Published)
    assert isinstance(store.read(KEY), Found)


def test_a_file_system_that_cannot_sync_is_good_enough(store: DiskStore, monkeypatch):
    """Without fsync there is no durability to be had; the entry is published all the same."""
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))

    assert isinstance(store.publish(an_artifact(KEY)), Published)


def test_failing_to_clean_up_never_fails_the_work(store: DiskStore, monkeypatch):
    """The entry is published although its temporary name cannot be removed."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing(errno.EIO))
        result = store.publish(an_artifact(KEY))

    assert isinstance(result, Published)
    assert isinstance(store.read(KEY), Found)


def test_files_of_a_killed_writer_are_swept_and_those_of_a_living_one_are_not(
    start_peer, store: DiskStore
):
    """Opening a store removes temporary files of dead processes of this host, and only those."""
    peer = start_peer()
    peer.tell("publish_and_hang", KEY)
    peer.hear("hang")

    DiskStore(store.directory)
    assert len(temporaries(store)) == 1
    peer.kill()
    DiskStore(store.directory)
    assert temporaries(store) == []


@pytest.mark.parametrize(
    "name",
    [
        "elsewhere.{namespace}.999999.1.0123456789abcdef",  # another host
        "{host}.1.999999.1.0123456789abcdef",  # another container
        "{host}.0.999999.1.0123456789abcdef",  # a writer that did not know its container
        "{host}.{namespace}.{pid}.{start}.0123456789abcdef",  # ourselves
        "a user's notes",
        "a.b.c.d.e",
    ],
)
def test_a_file_whose_writer_may_live_is_not_swept(store: DiskStore, name: str):
    """Death that cannot be seen from here is not assumed."""
    me = this_process()
    host = me.file_prefix.split(".")[0]
    facts = {"host": host, "namespace": me.namespace, "pid": me.pid, "start": me.start_ticks}
    file = Path(store.directory.path) / "tmp" / name.format(**facts)
    file.touch()

    DiskStore(store.directory)

    assert file.exists()


def test_a_reused_process_id_is_not_the_writer(store: DiskStore):
    """A living process that started at another time is not the one that wrote the file."""
    me = this_process()
    file = Path(store.directory.path) / "tmp" / f"{me.file_prefix}.0123456789abcdef"
    file = file.with_name(file.name.replace(f".{me.start_ticks}.", f".{me.start_ticks - 1}."))
    file.touch()

    DiskStore(store.directory)

    assert not file.exists()


def test_of_many_processes_one_publishes_and_all_read_the_same(start_peer, store: DiskStore):
    """Four processes publish one key at once: one wins, three lose, and one entry is there."""
    peers = [start_peer() for _ in range(4)]

    for number, peer in enumerate(peers):
        peer.tell("publish", KEY, f"data-{number}")
    outcomes = [peer.hear("publish")["outcome"] for peer in peers]

    winner = outcomes.index("Published")
    assert sorted(outcomes) == ["Lost", "Lost", "Lost", "Published"]
    assert store.read(KEY).artifact.data == f"data-{winner}".encode()
    assert temporaries(store) == []


@pytest.mark.parametrize(
    "text", ["", "../../etc/passwd", "A" * 64, KEY + "0", KEY[:-1], KEY + "\n"]
)
def test_only_a_key_becomes_a_file_name(store: DiskStore, text: str):
    """Anything but a key is refused before a file is opened."""
    for call in (store.read, store.remove, store.manifest):
        with pytest.raises(ValueError, match="not a key"):
            call(text)
