"""The history of compiles: appended by many, bounded, and read whatever lies there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ajit._cache.entries import history_reader
from ajit._cache.entries.collector import Collector
from ajit._cache.entries.eviction import HISTORY_SECONDS, Limits
from ajit._cache.entries.history import (
    HISTORY_BYTES,
    TOP,
    Compiled,
    _rotate,
    append_history,
    remove_history,
)
from ajit._cache.entries.history_reader import (
    MOST_LIMIT_BYTES,
    _clean,
    _decoder,
    read_history,
    unusable_history,
)
from ajit._cache.files.directory import CacheDirectory, open_cache_directory
from ajit._cache.files.fs import in_folder
from ajit._system.process import this_process
from ajit.cache import verify
from ajit.errors import SettingsError
from ajit.settings import Settings

ROOT = Path(__file__).parents[3]


def a_line(number: int = 1, **changes: object) -> Compiled:
    """A compile of this process."""
    us = this_process()
    facts = {
        "id": f"{us.file_prefix}.{number}",
        "unix_seconds": 1000.0 + number,
        "host": us.host,
        "pid": us.pid,
        "namespace": us.namespace,
        "start_ticks": us.start_ticks,
        "boot_id": us.boot_id,
        "name": "saxpy",
        "key": "ab" * 32,
        "outcome": "compiled",
        "seconds": 1.5,
    }
    return Compiled(**(facts | changes))


def the_file(path: Path) -> Path:
    """The newest file of history of this node."""
    (file,) = (one for one in (path / "history").iterdir() if not one.name.endswith(".1.jsonl"))
    return file


def test_history_is_read_as_it_was_written(directory: CacheDirectory, path: Path):
    """By another process's view of the cache, in the order of the ends."""
    append_history(directory, [a_line(2), a_line(1, log="k.cu(3): error\nand more")])

    found = read_history(open_cache_directory(path))

    assert found == [a_line(1, log="k.cu(3): error\nand more"), a_line(2)]


def test_file_is_of_the_caches_mode(directory: CacheDirectory, path: Path):
    """Whatever the umask is."""
    before = os.umask(0o777)
    try:
        append_history(directory, [a_line()])
    finally:
        os.umask(before)

    assert the_file(path).stat().st_mode & 0o777 == directory.sharing.file_mode


def test_history_is_bounded(directory: CacheDirectory, path: Path):
    """At the limit a file is put aside, in the place of the one before; the newest lines stay."""
    for number in range(300):
        append_history(directory, [a_line(number)], 10_000)
    sizes = {file.name: file.stat().st_size for file in (path / "history").iterdir()}
    found = read_history(directory)

    assert len(sizes) == 2
    assert max(sizes.values()) <= 10_000
    assert found[-1] == a_line(299)
    assert 20 < len(found) < 300


def test_history_is_read_whole_up_to_the_highest_limit(directory: CacheDirectory):
    """Which the setting has as well: what is kept, but never read, would be of no use."""
    for first in range(0, 3000, 100):
        lines = [a_line(first + number, log="l" * 2000) for number in range(100)]
        append_history(directory, lines, MOST_LIMIT_BYTES)

    assert len(read_history(directory)) == 3000
    with pytest.raises(SettingsError, match="16 MiB"):
        Settings(history_limit_bytes=MOST_LIMIT_BYTES + 1)
    assert Settings(history_limit_bytes=MOST_LIMIT_BYTES)


def test_many_lines_at_once_are_bounded_as_well(directory: CacheDirectory, path: Path):
    """A server whose thousand kernels all fail, with long logs, writes them at once."""
    append_history(directory, [a_line(number, log="\u2018x" * 2048) for number in range(1000)])

    found = read_history(directory)

    assert found[-1].id == a_line(999).id
    assert len(found) > 100
    assert max(file.stat().st_size for file in (path / "history").iterdir()) <= HISTORY_BYTES


def test_of_a_file_that_is_too_large_the_last_lines_are_read(
    directory: CacheDirectory, path: Path, monkeypatch
):
    """Its size costs nothing: the lines before are not even read."""
    append_history(directory, [a_line(1)])
    with the_file(path).open("ab") as file:
        file.truncate(1 << 40)
    append_history(directory, [a_line(2), a_line(3)], 1 << 50)
    read, real = [], os.pread
    monkeypatch.setattr(os, "pread", lambda *args: read.append(args[1]) or real(*args))
    monkeypatch.setattr(history_reader, "MOST_BYTES", 1 << 20)

    assert read_history(directory) == [a_line(2), a_line(3)]
    assert sum(read) <= 1 << 20


def test_files_of_short_lines_neither_fill_the_memory_nor_hide_others(
    directory: CacheDirectory, path: Path, monkeypatch
):
    """Who may write to the cache without its key can leave such files."""
    append_history(directory, [a_line(number) for number in range(50)])
    for number in range(8):
        evil = path / "history" / f"evil-{number:016x}.jsonl"
        evil.write_text("".join(f'{{"id":"{number}.{n}","unix_seconds":1}}\n' for n in range(9000)))
        evil.chmod(directory.sharing.file_mode)
    monkeypatch.setattr(history_reader, "MOST_LINES", 2000)

    found = read_history(directory)

    assert 50 < len(found) <= 2000
    assert found[-50:] == [a_line(number) for number in range(50)]
    assert read_history(directory, 20) == found[-20:]
    assert read_history(directory, 0) == []


WRITER = """
import sys
from tests.cache.entries.test_history import a_line
from ajit._cache.entries.history import append_history
from ajit._cache.files.directory import open_cache_directory
directory = open_cache_directory(sys.argv[1])
for number in range(60):
    append_history(directory, [a_line(number, name=sys.argv[2] * 50)], 6_000)
"""


def test_processes_append_and_rotate_at_once(directory: CacheDirectory, path: Path):
    """No line is torn, and none of the newest is lost by a second rotation."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter], cwd=ROOT)
        for letter in "abcd"
    ]
    assert [writer.wait(200) for writer in writers] == [0] * 4
    files = list((path / "history").iterdir())
    lines = [line for file in files for line in file.read_bytes().split(b"\n") if line]
    found = [_decoder.decode(line) for line in lines]

    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) > 6_000
    assert {line.name for line in found} <= {letter * 50 for letter in "abcd"}


def test_file_that_another_process_put_aside_is_not_put_aside_again(
    directory: CacheDirectory, path: Path
):
    """Who has the full one open still: the new one would take its place, and lose it."""
    append_history(directory, [a_line(1)])
    file = the_file(path)
    with file.open("ab") as full:
        file.rename(file.with_name(f"{file.stem}.1.jsonl"))
        append_history(directory, [a_line(2)])
        in_folder(directory, TOP, lambda folder: _rotate(folder, file.name, full.fileno()))

    assert read_history(directory) == [a_line(1), a_line(2)]


@pytest.mark.parametrize("call", ["open", "write"])
def test_file_that_others_have_put_aside_twice_is_opened_again(
    directory: CacheDirectory, path: Path, monkeypatch, call: str
):
    """The second time takes its last name, so that what is written to it would be lost."""
    append_history(directory, [a_line(1)])
    file, real = the_file(path), getattr(os, call)

    def then_put_aside(*args, **options):
        result = real(*args, **options)
        if args[0] == file.name or call == "write":
            monkeypatch.setattr(os, call, real)
            file.unlink()
        return result

    monkeypatch.setattr(os, call, then_put_aside)
    append_history(directory, [a_line(2)])

    assert read_history(directory) == [a_line(2)]


def test_torn_and_foreign_lines_are_passed_over(directory: CacheDirectory, path: Path):
    """Half a line of a killed process takes none of the next one with it."""
    append_history(directory, [a_line(1)])
    with the_file(path).open("ab") as file:
        file.write(b'{"id":"half","unix_sec')
    append_history(directory, [a_line(2)])
    with the_file(path).open("ab") as file:
        file.write(
            b'\xff\xfe\n[]\nnull\n{"id":"x","unix_seconds":1e300}\n{"id":"y"}\n' + b"[" * 9000
        )

    assert read_history(directory) == [a_line(1), a_line(2)]


def test_texts_are_printable(directory: CacheDirectory):
    """Also of other writers; a log has lines, all else has none."""
    append_history(directory, [a_line(name="\x1b[2Jx\ny", log="a\n\x1b]0;t\x07")])

    (line,) = read_history(directory)

    assert line.name == "\\x1b[2Jx\\ny"
    assert line.log == "a\n\\x1b]0;t\\x07"


def test_compile_of_a_process_that_is_gone_was_killed(directory: CacheDirectory):
    """One that goes on is running, and of another machine nothing is known."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    append_history(
        directory,
        [
            a_line(1, outcome="running", pid=child.pid, start_ticks=1),
            a_line(2, outcome="running"),
            a_line(3, outcome="running", host="elsewhere"),
            a_line(4, outcome="running", boot_id="before"),
            a_line(5, outcome="running"),
            a_line(5, outcome="compiled"),
        ],
    )

    outcomes = [line.outcome for line in read_history(directory)]

    assert outcomes == ["killed", "running", "unknown", "killed", "compiled"]


@pytest.mark.parametrize("kind", ["link", "hard link", "folder", "fifo"])
def test_what_is_no_file_of_ours_is_not_appended_to(
    directory: CacheDirectory, path: Path, tmp_path: Path, kind: str
):
    """Nor is it read; and nothing hangs."""
    append_history(directory, [a_line()])
    file = the_file(path)
    file.unlink()
    other = tmp_path / "other"
    other.write_text("mine\n")
    if kind == "link":
        file.symlink_to(other)
    elif kind == "hard link":
        file.hardlink_to(other)
    elif kind == "folder":
        file.mkdir()
    else:
        os.mkfifo(file)

    with pytest.raises(OSError):  # noqa: PT011  # each kind has an error of its own
        append_history(directory, [a_line()])

    assert other.read_text() == "mine\n"
    assert read_history(directory) == []
    assert [name for name, _ in unusable_history(directory)] == [f"history/{file.name}"]
    assert not verify(path).good


def test_verify_names_a_history_that_is_a_link(
    directory: CacheDirectory, path: Path, tmp_path: Path
):
    """Nothing is read from it, and nothing written to it."""
    append_history(directory, [a_line()])
    (path / "history").rename(tmp_path / "aside")
    (path / "history").symlink_to(tmp_path / "aside")

    assert [one.name for one in verify(path).unsafe] == ["history"]
    assert read_history(directory) == []


def test_file_that_cannot_be_put_aside_stops_growing(directory: CacheDirectory, path: Path):
    """Such as where its older name is a folder."""
    append_history(directory, [a_line()])
    file = the_file(path)
    blocked = file.with_name(f"{file.name.removesuffix('.jsonl')}.1.jsonl")
    (blocked / "in it").mkdir(parents=True)

    def append_many() -> None:
        for number in range(1000):
            append_history(directory, [a_line(number)], 4_000)

    with pytest.raises(OSError, match="cannot be renamed"):
        append_many()

    assert file.stat().st_size < 10_000


def test_full_disk_is_an_error_and_the_history_is_read_on(small_disk: Path):
    """What was written before is there."""
    directory = open_cache_directory(small_disk / "cache")
    append_history(directory, [a_line(1)])
    with pytest.raises(OSError, match="No space left"):
        append_history(directory, [a_line(2, log="x" * 400_000)])

    assert read_history(directory)[0] == a_line(1)


def test_history_is_removed(directory: CacheDirectory, path: Path):
    """All of it, and nothing else that lies there."""
    append_history(directory, [a_line()])
    (path / "history" / "letter.txt").write_text("")

    assert remove_history(directory) == 1
    assert [file.name for file in (path / "history").iterdir()] == ["letter.txt"]


def test_history_of_a_bygone_machine_is_evicted(directory: CacheDirectory, path: Path):
    """One that is in use is not, whatever the limits of the cache are."""
    append_history(directory, [a_line()])
    old = path / "history" / "pod-0123456789abcdef.jsonl"
    old.write_text("")
    before = old.stat().st_mtime - HISTORY_SECONDS - 60
    os.utime(old, (before, before))
    collector = Collector(directory, Limits(max_bytes=1, max_age_seconds=1))

    assert collector.plan().reasons == {"history of a bygone machine": 1}
    collector.collect()
    assert not old.exists()
    assert len(read_history(directory)) == 1


@given(st.binary(max_size=300))
def test_reader_takes_any_line(data: bytes):
    """It is a compile, or an error that the reader knows."""
    try:
        line = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return
    assert isinstance(_clean(line), Compiled)


def test_foreign_names_are_not_read(directory: CacheDirectory, path: Path):
    """What has another name is not ajit's."""
    append_history(directory, [a_line()])
    (path / "history" / "notes.jsonl").write_bytes(the_file(path).read_bytes())

    assert read_history(directory) == [a_line()]
