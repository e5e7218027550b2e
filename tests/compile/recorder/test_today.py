"""What the files of a list are today, in one call, and remembered while ``stat`` says the same."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ajit._compile.recorder.digests import digests
from ajit._compile.recorder.places import ON_PATH, Places
from ajit._compile.recorder.stat_files import (
    ABSENT,
    DIRECTORY,
    FILE_STATE,
    REGULAR,
    joined_paths,
    stat_files,
)
from ajit._compile.recorder.today import Budget, ListsToday, states_today
from ajit._core.reads import FOLDER, PRESENT, Read, ReadingList

OLD = 1_700_000_000_000_000_000


def write(path: Path, text: str) -> None:
    """Write a file that was last changed long ago, as most headers were."""
    path.write_text(text)
    os.utime(path, ns=(OLD, OLD))


def kinds(*paths: Path) -> list[int]:
    """What each path is."""
    joined = joined_paths([str(path) for path in paths])
    assert joined is not None
    return [what for what, *_ in FILE_STATE.iter_unpack(stat_files(joined, len(paths)))]


def test_each_path_is_told_as_stat_tells_it(tmp_path: Path) -> None:
    """Files, directories and links to them; what is not there or cannot lead anywhere is absent."""
    write(tmp_path / "file", "text")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))

    actual = kinds(
        *(tmp_path / name for name in ("file", "link", "dangling", "loop", "folder", "socket")),
        tmp_path / "file" / "below",
        tmp_path / ("long" * 100),
    )

    other = actual[5]
    assert other not in (ABSENT, REGULAR, DIRECTORY)
    assert actual == [REGULAR, REGULAR, ABSENT, ABSENT, DIRECTORY, other, ABSENT, ABSENT]


def test_a_stamp_is_that_of_stat(tmp_path: Path) -> None:
    """Device, inode, size and times are those that Python's ``stat`` gives, to the nanosecond."""
    write(tmp_path / "file", "text")
    joined = joined_paths([str(tmp_path / "file")])
    assert joined is not None

    _, *stamp = FILE_STATE.unpack(stat_files(joined, 1))

    info = (tmp_path / "file").stat()
    expected = [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
    assert stamp == expected


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_name_that_no_file_can_have_ends_the_list(tmp_path: Path, name: str) -> None:
    """A forged list cannot shift the other names: it does not hold."""
    reads = (Read("i0", "x", "absent"), Read("i0", name, "absent"))

    assert states_today(reads, Places([("i0", str(tmp_path))], "k.cu")) is None


def test_an_edit_after_a_look_is_seen_by_the_next(tmp_path: Path) -> None:
    """Also where the new text is as long, and mtime is put back: ctime tells."""
    write(tmp_path / "a.h", "one")
    lists, places = ListsToday(), Places([("i0", str(tmp_path))], "k.cu")
    found = ReadingList((Read("i0", "a.h", "file"),))
    first = lists.states("digest", found, places)
    same = lists.states("digest", found, places)

    write(tmp_path / "a.h", "two")
    edited = lists.states("digest", found, places)

    assert first == same != edited
    assert edited is not None


def test_a_file_written_just_now_is_read_at_every_look(tmp_path: Path) -> None:
    """A second write in the same tick of the clock would not show in the stamp."""
    (tmp_path / "a.h").write_text("one")
    lists, places = ListsToday(), Places([("i0", str(tmp_path))], "k.cu")
    found = ReadingList((Read("i0", "a.h", "file"),))
    before = digests.reads

    for _ in range(3):
        assert lists.states("digest", found, places)

    assert digests.reads - before == 3


def test_what_appears_or_goes_ends_a_list(tmp_path: Path) -> None:
    """An absence holds until the file is there, a presence until it is gone."""
    lists, places = ListsToday(), Places([("i0", str(tmp_path))], "k.cu")
    found = ReadingList((Read("i0", "a.h", "absent"), Read("i0", "b", "present")))
    (tmp_path / "b").mkdir()
    as_folder = lists.states("digest", found, places)
    (tmp_path / "b").rmdir()
    gone = lists.states("digest", found, places)
    (tmp_path / "b").touch()
    as_file = lists.states("digest", found, places)
    (tmp_path / "a.h").touch()
    appeared = lists.states("digest", found, places)

    assert as_folder == ("absent", FOLDER)
    assert gone is None
    assert as_file == ("absent", PRESENT)
    assert appeared is None


def test_one_list_in_two_trees_is_looked_at_in_each(tmp_path: Path) -> None:
    """What is remembered belongs to the directories as well as to the list."""
    lists, found = ListsToday(), ReadingList((Read("i0", "a.h", "file"),))
    states = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.h", name)
        states.append(lists.states("digest", found, Places([("i0", str(tmp_path / name))], "k")))

    assert None not in states
    assert states[0] != states[1]


@pytest.mark.parametrize("place", ["/", ON_PATH])
def test_a_look_up_reads_so_much_and_the_next_one_comes_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A list that nothing vouches for may name any number of large files, or programs."""
    monkeypatch.setattr("ajit._compile.recorder.digests.SETTLED_NS", -1)
    for number in range(6):
        write(tmp_path / f"file{number}", f"{number}" * 1000)
        (tmp_path / f"file{number}").chmod(0o755)
    made = ReadingList(tuple(Read(place, str(tmp_path / f"file{n}"), "file") for n in range(6)))
    lists, places, before = ListsToday(), Places([], "k"), digests.reads

    looks = []
    for _ in range(4):
        holds = lists.states("a list", made, places, Budget(2500)) is not None
        looks.append((holds, digests.reads - before))

    assert looks == [(False, 2), (False, 4), (True, 6), (True, 6)]


def test_the_lists_of_a_look_up_share_its_budget(tmp_path: Path) -> None:
    """Else sixty-four lists could have sixty-four times as much read."""
    budget, held = Budget(2500), []
    for number in range(4):
        write(tmp_path / f"file{number}", f"{number + 10}" * 500)
        made = ReadingList((Read("/", str(tmp_path / f"file{number}"), "file"),))
        held.append(
            ListsToday().states(f"list {number}", made, Places([], "k"), budget) is not None
        )

    assert held == [True, True, False, False]
