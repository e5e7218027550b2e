"""`ajit record`: shows what servers used, and makes one file of many."""

from __future__ import annotations

import shutil

import pytest

from ajit import Build, Command
from ajit.cli import exits
from tests.runtime.test_recorded_builds import lines_of

SOURCE = (
    "__global__ void saxpy(float a, float* x, int n) { if (threadIdx.x < n) x[threadIdx.x] *= a; }"
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """What the first test records, for the others."""
    return tmp_path_factory.mktemp("kept") / "used.ajit"


@pytest.fixture
def recorded(ajit, tmp_path, kept):
    """A record of three starts: one kernel was used by two of them, another by one."""
    path = tmp_path / "used.ajit"
    if kept.exists():
        return shutil.copytree(kept, path)
    (tmp_path / "saxpy.cu").write_text(SOURCE)
    for define in ("N=1", "N=2", "N=1"):
        ended = ajit(
            "compile", tmp_path / "saxpy.cu", "--entry", "saxpy", "--compiler", "host",
            "-D", define, AJIT_RECORD=str(path),
        )  # fmt: skip
        assert ended.code == exits.FINE, ended.err
    shutil.copytree(path, kept)
    return path


def test_show_lists_every_kernel_once_with_its_counts(ajit, recorded):
    """As a table for people, as JSON for programs."""
    shown = ajit("record", "show", recorded)
    payload = ajit("record", "show", recorded, "--json").json()

    assert sorted(row["count"] for row in payload["kernels"]) == [1, 2]
    assert {row["name"] for row in payload["kernels"]} == {"saxpy.cu"}
    assert shown.code == exits.FINE
    assert "2 kernels" in shown.out


def test_kernels_of_one_label_are_told_apart(ajit, recorded):
    """By what differs, and by the id of the line; what is the same is not repeated."""
    shown = ajit("record", "show", recorded).out
    rows = ajit("record", "show", recorded, "--json").json()["kernels"]
    lines = shown.splitlines()[1:3]

    assert sorted(row["parts"]["defines"] for row in rows) == [["N=1"], ["N=2"]]
    assert {row["parts"]["entries"][0] for row in rows} == {"saxpy"}
    for row, line in zip(rows, lines, strict=True):
        assert line.startswith(row["id"][:12])
        assert f"saxpy -D{row['parts']['defines'][0]}" in line
        assert "source" not in line


def test_merge_in_place_makes_one_file_that_says_the_same(ajit, recorded):
    """Of a folder; and again of a merged one."""
    before = ajit("record", "show", recorded, "--json").json()
    assert len(list(recorded.iterdir())) == 3
    for _ in range(2):
        merged = ajit("record", "merge", recorded, "--json").json()
        assert merged["kernels"] == 2
        assert len(list(recorded.iterdir())) == 1

    assert ajit("record", "show", recorded, "--json").json() == before


def test_merge_into_a_file_changes_nothing_else(ajit, recorded, tmp_path):
    """To be baked into an image; several records at once, and a file is a record as well."""
    target = tmp_path / "baked.ajit"
    ended = ajit("record", "merge", recorded, recorded, "-o", target)
    payload = ajit("record", "show", target, "--json").json()

    assert ended.code == exits.FINE
    assert sorted(row["count"] for row in payload["kernels"]) == [2, 4]
    assert len(list(recorded.iterdir())) == 3
    assert target.read_text().count("__global__ void saxpy") == 1


def test_a_torn_last_line_is_fine_and_a_damaged_one_is_a_problem(ajit, recorded):
    """What is left of a process that was killed, and what is not."""
    first = max(recorded.iterdir(), key=lambda file: file.stat().st_size)
    with first.open("ab") as file:
        file.write(b'0123456789abcdef {"line":"us')
    torn = ajit("record", "show", recorded, "--json")
    with first.open("ab") as file:
        file.write(b'e"}\n')
    damaged = ajit("record", "show", recorded, "--json")

    assert (torn.code, torn.json()["torn_lines"]) == (exits.FINE, 1)
    assert (damaged.code, damaged.json()["damaged_lines"]) == (exits.PROBLEM, 1)
    assert len(damaged.json()["kernels"]) == 2


def test_what_is_no_record_is_told(ajit, tmp_path, recorded):
    """Not there; others may write to it; several without a target."""
    missing = ajit("record", "show", tmp_path / "none", "--json")
    recorded.chmod(0o777)
    unsafe = ajit("record", "show", recorded)
    allowed = ajit("record", "show", recorded, "--allow-unsafe")
    several = ajit("record", "merge", recorded, recorded)

    assert missing.json()["error"] == "RecordError"
    assert missing.code == exits.ENVIRONMENT
    assert (unsafe.code, "others" in unsafe.err or "other users" in unsafe.err) == (
        exits.ENVIRONMENT, True,
    )  # fmt: skip
    assert allowed.code == exits.FINE
    assert several.code == exits.USAGE


def test_a_merge_makes_no_command_of_others_ones_own(ajit, tmp_path):
    """A build that others may have written is left out of a merged record; what is safe stays."""
    for name, mode in (("ours", 0o600), ("theirs", 0o666)):
        (tmp_path / name).write_bytes(b"".join(lines_of(a_build(name))))
        (tmp_path / name).chmod(mode)
    ended = ajit("record", "merge", "ours", "theirs", "--allow-unsafe", "-o", "both", "--json")
    shown = ajit("record", "show", "both", "--json").json()

    assert (ended.code, ended.json()["builds_left_out"]) == (exits.FINE, 1)
    assert "left out 1 build" in ended.err
    assert [row["kind"] for row in shown["kernels"]] == ["build"]
    assert "ours" in (tmp_path / "both").read_text()


def a_build(name):
    """A build that runs nothing here."""
    return Build(name, Command(["touch", name]), [name])
