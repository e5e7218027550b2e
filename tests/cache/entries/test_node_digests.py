"""A node keeps its digests of files: no process reads a header again, and no forged one is used."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ajit._cache.entries import digest_file, node_digests
from ajit._cache.entries.digest_file import DigestFileInvalid, decode, encode
from ajit._cache.entries.node_digests import NodeDigests, digest_files
from ajit._cache.entries.touch import TOUCH_SECONDS
from ajit._cache.files.directory import open_cache_directory
from ajit._compile.recorder.digests import FileCache, FileStamp, sha256_file
from ajit._core.seal import NO_TRUST, HmacKey, Trust
from tests.cache.helpers import fill, poll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._cache.files.directory import CacheDirectory

SECRET = Trust("hmac", [HmacKey(b"a secret of this test")])
GUESSED = Trust("hmac", [HmacKey(b"another secret that is guessed")])
DAY = 86400.0
ONE, TWO = "1" * 64, "2" * 64


def a_stamp(inode: int = 1, *, ctime: int = 1_700_000_000_123_456_789) -> tuple[int, ...]:
    """A stamp with the clock of a real file system."""
    return (64, inode, 5000, 1_700_000_000_000_000_000, ctime)


def keep(directory: CacheDirectory, trust: Trust = NO_TRUST, **digests: str) -> NodeDigests:
    """Write digests of files with the inodes ``_1``, ``_2``, ..."""
    node = NodeDigests(directory, trust)
    node.learned({a_stamp(int(inode[1:])): digest for inode, digest in digests.items()})
    node.close()
    return node


def known(directory: CacheDirectory, inode: int = 1, trust: Trust = NO_TRUST) -> str | None:
    """What the next process knows."""
    return NodeDigests(directory, trust).known(a_stamp(inode))


def file_of(node: NodeDigests) -> Path:
    """The file that a node keeps."""
    return Path(node._directory.path, node.name)


@pytest.fixture(autouse=True)
def all_written(monkeypatch) -> Iterator[None]:
    """Let no thread write after its test: other tests count descriptors and make calls fail."""
    made, begin = [], NodeDigests.__init__

    def __init__(self, *args, **kwargs):  # noqa: N807  # it stands in for that
        begin(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(NodeDigests, "__init__", __init__)
    yield
    for node in made:
        node.close()


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as settled."""
    monkeypatch.setattr(FileStamp, "settled", lambda _self: True)


@pytest.fixture
def header(tmp_path: Path) -> Path:
    """A file whose change time shows fractions of a second."""
    path = tmp_path / "header.h"
    path.write_text("#pragma once")
    while path.stat().st_ctime_ns % 1_000_000_000 == 0:
        path.touch()
    return path


# --- what a process knows, and what its node does ---


@pytest.mark.usefixtures("long_ago")
def test_the_next_process_does_not_read_the_file_again(directory, header: Path):
    """It has the digest from the node's file."""
    first, second = FileCache(sha256_file), FileCache(sha256_file)
    node = NodeDigests(directory)
    first.attach(node)
    expected = first.get(str(header))
    node.close()
    second.attach(NodeDigests(directory))

    assert (second.get(str(header)), second.reads) == (expected, 0)


@pytest.mark.usefixtures("long_ago")
def test_a_changed_file_is_read_though_its_node_knew_it(directory, header: Path):
    """Its stamp is another one."""
    node = NodeDigests(directory)
    cache = FileCache(sha256_file)
    cache.attach(node)
    before = cache.get(str(header))
    node.close()
    header.write_text("#pragma  all")
    later = FileCache(sha256_file)
    later.attach(NodeDigests(directory))

    assert later.get(str(header)) not in (None, before)
    assert later.reads == 1


def test_a_file_written_just_now_is_not_kept(directory, header: Path):
    """A second write in the same tick of the clock would go unseen for ever."""
    node = NodeDigests(directory)
    cache = FileCache(sha256_file)
    cache.attach(node)
    cache.get(str(header))
    node.close()

    assert not file_of(node).exists()


@pytest.mark.parametrize("elsewhere", [7, None], ids=["another boot", "untold"])
def test_a_change_time_of_whole_seconds_counts_in_one_boot_and_namespace(
    directory, monkeypatch, elsewhere
):
    """So do images of file systems say of each of their versions, built with all times alike."""
    node = NodeDigests(directory)
    node.learned({a_stamp(1, ctime=10**9): ONE, a_stamp(2): TWO})
    node.close()
    here = NodeDigests(directory).known(a_stamp(1, ctime=10**9))
    monkeypatch.setattr(node_digests, "_boot_and_mounts", lambda: elsewhere)

    assert here == ONE
    assert NodeDigests(directory).known(a_stamp(1, ctime=10**9)) is None
    assert known(directory, 2) == TWO


def test_numbers_that_do_not_fit_are_not_kept(directory):
    """A file system may say anything."""
    node = NodeDigests(directory)
    node.learned({(1 << 64, 1, 1, 1, 1): ONE, (1, 1, -1, 1, 1): ONE})
    node.close()

    assert node.known((1 << 64, 1, 1, 1, 1)) is None
    assert not file_of(node).exists()


@pytest.mark.usefixtures("long_ago")
def test_of_two_caches_in_a_process_the_first_that_knows_wins_and_the_other_learns(
    tmp_path: Path, header: Path
):
    """Each cache ends up with what its processes need."""
    knows, learns = (open_cache_directory(tmp_path / name) for name in ("knows", "learns"))
    for_it = NodeDigests(knows)
    for_it.learned({tuple(FileStamp.of(str(header))): ONE})
    for_it.close()
    cache, other = FileCache(sha256_file), NodeDigests(learns)
    cache.attach(other)
    cache.attach(NodeDigests(knows))

    assert (cache.get(str(header)), cache.reads) == (ONE, 0)
    other.close()
    assert NodeDigests(learns).known(tuple(FileStamp.of(str(header)))) == ONE


@pytest.mark.usefixtures("long_ago")
def test_a_cache_opened_later_is_told_what_the_process_knows(directory, header: Path):
    """And one that was closed is told nothing more."""
    cache = FileCache(sha256_file)
    expected = cache.get(str(header))
    node = NodeDigests(directory)
    cache.attach(node)
    cache.detach(node)
    other = header.with_name("other.h")
    other.write_text("later")
    cache.get(str(other))
    node.close()

    assert NodeDigests(directory).known(tuple(FileStamp.of(str(header)))) == expected
    assert NodeDigests(directory).known(tuple(FileStamp.of(str(other)))) is None


# --- writing ---


def test_it_is_written_a_moment_after_the_last_digest(directory, monkeypatch):
    """By a thread in the background, without anything being closed."""
    monkeypatch.setattr(node_digests, "QUIET_SECONDS", 0.001)
    node = NodeDigests(directory)
    node.learned({a_stamp(): ONE})

    poll(file_of(node).exists)
    assert known(directory) == ONE


def test_what_was_learned_while_it_was_written_is_written_too(directory, monkeypatch):
    """No digest waits for the next one."""
    node = NodeDigests(directory)
    publish = node_digests.fs.publish_file

    def learn_meanwhile(*args: object, **kwargs: object) -> object:
        monkeypatch.setattr(node_digests.fs, "publish_file", publish)
        node.learned({a_stamp(2): TWO})
        return publish(*args, **kwargs)

    monkeypatch.setattr(node_digests.fs, "publish_file", learn_meanwhile)
    node.learned({a_stamp(1): ONE})
    node.close()

    assert (known(directory, 1), known(directory, 2)) == (ONE, TWO)


def test_two_processes_add_to_each_other(directory):
    """What is there is kept."""
    first, second = NodeDigests(directory), NodeDigests(directory)
    first.known(a_stamp())
    second.known(a_stamp())
    first.learned({a_stamp(1): ONE})
    first.close()
    second.learned({a_stamp(2): TWO})
    second.close()

    assert (known(directory, 1), known(directory, 2)) == (ONE, TWO)


def test_nothing_new_writes_nothing(directory):
    """A second runtime of the process learns what is there already."""
    node = keep(directory, _1=ONE)
    inode = file_of(node).stat().st_ino
    keep(directory, _1=ONE)

    assert file_of(node).stat().st_ino == inode


def test_a_file_has_one_record_and_the_unused_go_first(directory, monkeypatch):
    """The file stays small: its size has a limit, and edited headers do not pile up."""
    monkeypatch.setattr(digest_file, "MAX_RECORDS", 2)
    monkeypatch.setattr(node_digests, "_today", lambda: 100)
    keep(directory, _1=ONE, _2=ONE)
    monkeypatch.setattr(node_digests, "_today", lambda: 101)
    later = a_stamp(3, ctime=a_stamp()[4] + 1)
    node = NodeDigests(directory)
    node.known(a_stamp(2))
    node.learned({later: ONE, a_stamp(3): TWO})
    node.close()

    assert known(directory, 1) is None
    assert known(directory, 2) == ONE
    assert known(directory, 3) is None
    assert NodeDigests(directory).known(later) == ONE


def test_a_file_that_is_used_is_touched(directory):
    """So its node counts as one that is still there."""
    node = keep(directory, _1=ONE)
    old = time.time() - 2 * TOUCH_SECONDS
    os.utime(file_of(node), (old, old))
    known(directory)

    poll(lambda: time.time() - file_of(node).stat().st_mtime < TOUCH_SECONDS)


def test_a_cache_that_cannot_be_written_is_read_only(read_only_mount):
    """Digests are used, and nothing is tried."""
    keep(open_cache_directory(read_only_mount.place), _1=ONE)
    directory = open_cache_directory(read_only_mount())
    assert directory.access == "read-only"

    node = keep(directory, _2=TWO)
    assert known(directory, 1) == ONE
    assert node._new == {}


def test_a_full_disk_costs_only_hashing(small_disk: Path):
    """Nothing is raised, not even in the background, and the close comes back."""
    directory = open_cache_directory(small_disk)
    fill(small_disk)
    node = NodeDigests(directory)
    node.learned({a_stamp(inode): ONE for inode in range(200)})
    node.close()

    assert not file_of(node).exists()
    assert list((small_disk / "tmp").iterdir()) == []


# --- what counts as not there ---

WRITTEN = encode({digest_file.pack_stamp(a_stamp()): digest_file.pack_value(1, ONE)}, "n", NO_TRUST)


def sealed(records: object) -> bytes:
    """A file whose checksum is right, whatever it holds."""
    packed = msgspec.msgpack.encode(records)
    body = struct.pack("<8sQ", b"AJITDIG\2", len(packed)) + packed
    return body + digest_file._checksum(body, "n")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#pragma once" * 100,
        WRITTEN[:-1],
        WRITTEN + b"x",
        sealed([1, 2]),
        sealed({b"short": b"short"}),
        sealed({"text": "text"}),
        sealed(None),
    ],
    ids=["empty", "text", "cut", "longer", "a list", "short", "text records", "nothing"],
)
def test_a_foreign_file_is_refused(data: bytes):
    """Whatever it is: it does not decode, and nothing of it is used."""
    with pytest.raises(DigestFileInvalid):
        decode(data, "n", NO_TRUST)


@given(st.integers(0, len(WRITTEN) - 1), st.integers(1, 255))
def test_each_flipped_bit_is_found(place: int, flip: int):
    """None of the bytes is outside the checksum."""
    data = bytearray(WRITTEN)
    data[place] ^= flip

    with pytest.raises(DigestFileInvalid):
        decode(bytes(data), "n", NO_TRUST)


def test_a_damaged_file_is_replaced(directory):
    """What was learned since is there afterwards, and what was there is hashed again."""
    node = keep(directory, _1=ONE)
    file_of(node).write_bytes(file_of(node).read_bytes()[:-7])
    assert known(directory) is None

    keep(directory, _2=TWO)
    assert (known(directory, 1), known(directory, 2)) == (None, TWO)


def test_the_file_of_another_node_is_not_taken(directory):
    """Devices and inodes of one node mean nothing on another."""
    node = keep(directory, _1=ONE)
    data = file_of(node).read_bytes()
    elsewhere = file_of(node).with_name("elsewhere-0123456789abcdef")
    elsewhere.write_bytes(data)

    [bad, good] = sorted(digest_files(directory, NO_TRUST), key=lambda info: not info.problem)
    assert (good.node, good.records) == (file_of(node).name, 1)
    assert (bad.node, bad.problem) == ("elsewhere-0123456789abcdef", "checksum does not match")


def test_a_file_above_the_limit_is_not_even_read(directory):
    """A sparse file of a terabyte would take the memory."""
    node = keep(directory, _1=ONE)
    with file_of(node).open("r+b") as file:
        file.truncate(1 << 40)

    assert known(directory) is None
    assert [info.problem for info in digest_files(directory, NO_TRUST)] == ["it is too large"]


def test_with_a_secret_a_file_must_be_authentic(directory):
    """A forged digest would lead to the kernel of another header."""
    node = keep(directory, SECRET, _1=ONE)
    assert known(directory, trust=SECRET) == ONE

    forged = {digest_file.pack_stamp(a_stamp()): digest_file.pack_value(_today(), TWO)}
    for trust in (NO_TRUST, GUESSED):
        file_of(node).write_bytes(encode(forged, file_of(node).name, trust))
        assert known(directory, trust=SECRET) is None
    file_of(node).write_bytes(encode(forged, file_of(node).name, SECRET))
    assert known(directory, trust=SECRET) == TWO


def test_processes_with_and_without_a_secret_have_files_of_their_own(directory):
    """Or each would discard what the other has written."""
    names = {keep(directory, trust, _1=ONE).name for trust in (NO_TRUST, SECRET, GUESSED)}

    assert len(names) == 3


def _today() -> int:
    return int(time.time() // DAY)


def test_what_was_learned_under_an_old_secret_is_known_under_the_new(directory):
    """While a secret is changed nothing is hashed again; each writes the file of its own."""
    old, new = HmacKey(b"the old secret of the fleet"), HmacKey(b"the new secret of the fleet")
    keep(directory, Trust("hmac", [old, new]), _1=ONE)
    then = Trust("hmac", [new, old])
    keep(directory, then, _2=TWO)

    assert (known(directory, 1, then), known(directory, 2, then)) == (ONE, TWO)
    assert known(directory, 2, Trust("hmac", [old, new])) == TWO
    assert known(directory, 1, Trust("hmac", [new])) is None


def test_what_was_learned_while_the_files_were_not_read_hides_none_of_them(directory):
    """A file of another key is read once, also after a write."""
    old, new = HmacKey(b"the old secret of the fleet"), HmacKey(b"the new secret of the fleet")
    keep(directory, Trust("hmac", [old]), _1=ONE)
    node = keep(directory, Trust("hmac", [new, old]), _2=TWO)

    assert (node.known(a_stamp(1)), node.known(a_stamp(2))) == (ONE, TWO)


def test_a_process_that_cannot_seal_reads_and_writes_nothing(directory):
    """What it wrote would be of no use to itself."""
    keep(directory, SECRET, _1=ONE)
    reader = Trust("hmac", [HmacKey(b"a secret of this test")], seals=False)
    node = keep(directory, reader, _2=TWO)

    assert node.known(a_stamp(1)) == ONE
    assert known(directory, 2, SECRET) is None
