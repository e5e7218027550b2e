"""A kernel that includes 900 headers is looked up: in a first process, in a second, and again.

A tree of headers is generated, with a reading list as a compiler would leave it: each header was
found in the last of three include directories, so that it was looked for in vain in two. Its entry
lies in the cache. The first process has to hash every header; the second has the digests that the
node keeps; a hot look-up is one more in the same process. Beside it, in the same process, the bare
calls that no look-up can do without: one `stat` for each header and one `access` for each absence.

The budget is held against CPU time of the thread. Wall time, which is shown as well, is also that
of other programs on the machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Row, Sample, seconds

HEADERS = 900
CALLS = 3 * HEADERS
HEADER_BYTES = 9_000
"""CUTLASS has 9 kB a header."""
FIRST_RUNS = 5
SECOND_RUNS = 11
HOT_LOOKS = 51
BUDGET_SECONDS = 0.005
BASE = "0" * 64


def rows() -> list[Row]:
    """Measure."""
    first, second = [], []
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as folder:
        _generate(Path(folder, "tree"))
        time.sleep(2.5)  # a file written within the last two seconds is never kept
        for run in range(FIRST_RUNS):
            _fill(folder, f"cache{run}")
            first.append(_fresh(folder, f"cache{run}"))
        second += [_fresh(folder, "cache0") for _ in range(SECOND_RUNS)]
    return [
        _row("a first process", [_cold(report) for report in first], first[0]["hashed"]),
        _row("a second process", [_cold(report) for report in second], second[0]["hashed"]),
        _row("hot", [turn for report in second for turn in report["turns"]], 0),
    ]


def _cold(report: dict[str, Any]) -> list[list[float]]:
    """The first look-up of a process, and the median of the bare calls in it."""
    bare = zip(*(bare for _, bare in report["turns"]), strict=True)
    return [report["cold"], [statistics.median(values) for values in bare]]


def _row(what: str, pairs: Sequence[list[list[float]]], hashed: int) -> Row:
    """Draw pairs of a look-up and its bare calls, each in wall and CPU seconds."""
    above = statistics.median(look[1] - bare[1] for look, bare in pairs)
    return Row(
        f"look-up of a kernel with {HEADERS} headers, {what}",
        str(Sample(tuple(look[0] for look, _ in pairs))),
        "" if hashed else f"{seconds(BUDGET_SECONDS)} CPU above its calls",
        None if hashed else above <= BUDGET_SECONDS,
        f"its {CALLS} stat and access calls alone: {Sample(tuple(bare[0] for _, bare in pairs))}; "
        f"CPU: {seconds(statistics.median(look[1] for look, _ in pairs))}, "
        f"{seconds(max(above, 0.0))} above the calls; files hashed: {hashed}",
    )


def _fresh(folder: str, cache: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.reads", folder, cache]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _generate(tree: Path) -> None:
    for place in ("a", "b"):
        (tree / place / "lib" / "detail").mkdir(parents=True)
    for number in range(HEADERS):
        header = tree / "c" / _name(number)
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(f"// {number}\n" * (HEADER_BYTES // 8))


def _name(number: int) -> str:
    return f"lib/detail/part{number // 50}/header_{number}.hpp"


def _fill(folder: str, cache: str) -> None:
    """Publish list and entry, as a process would that compiled this kernel on another node."""
    from ajit._cache.entries.disk import DiskStore
    from ajit._cache.entries.lists import ListStore
    from ajit._cache.files.directory import open_cache_directory
    from ajit._compile.recorder.digests import sha256_file
    from ajit._core.entry import Artifact
    from ajit._core.reads import ABSENT, Read, ReadingList, entry_key

    reads, states = [], []
    for number in range(HEADERS):
        name = _name(number)
        reads += [Read("i0", name, "absent"), Read("i1", name, "absent"), Read("i2", name, "file")]
        states += [ABSENT, ABSENT, sha256_file(str(Path(folder, "tree", "c", name)))]
    made = ReadingList(tuple(reads))
    artifact = Artifact(
        key=entry_key(BASE, made.digest, states), base=BASE, key_fields=(), name="k.cu",
        kind="cubin", arch="sm_90a", compiler="nvrtc", compiler_version="13.0", entries=("k",),
        lowered={"k": "k"}, log="", command=(), created=0.0, seconds=1.0, host="", ajit_version="0",
        data=b"code" * 5000,
    )  # fmt: skip
    directory = open_cache_directory(Path(folder, cache))
    DiskStore(directory).publish(artifact)
    ListStore(directory).publish(BASE, made)


def _measure(folder: str, cache: str) -> dict[str, Any]:
    from ajit._cache.entries.disk import DiskStore, Found
    from ajit._cache.entries.failures import FailureStore
    from ajit._cache.entries.lists import ListStore
    from ajit._cache.entries.node_digests import NodeDigests
    from ajit._cache.files.directory import open_cache_directory
    from ajit._compile.recorder.digests import digests
    from ajit._compile.recorder.places import places_of
    from ajit._core.key import Key
    from ajit._resolve.lookup import Seeker, Wanted

    directory = open_cache_directory(Path(folder, cache))
    include_dirs = [str(Path(folder, "tree", place)) for place in "abc"]
    wanted = Wanted(Key(BASE, ()), places_of(include_dirs, (), (), "", "k.cu"))
    seeker = Seeker(DiskStore(directory), ListStore(directory), FailureStore(directory))
    kept = NodeDigests(directory)
    digests.attach(kept)
    look = partial(seeker.look, wanted)
    cold = _timed(look)
    hashed = digests.reads
    assert isinstance(look(), Found)
    present = [f"{include_dirs[2]}/{_name(number)}" for number in range(HEADERS)]
    absent = [f"{place}/{_name(number)}" for number in range(HEADERS) for place in include_dirs[:2]]
    call = partial(_call, present, absent)
    # In turns: on a shared machine, one of the two may have had half of the other's CPU.
    turns = [(_timed(look), _timed(call)) for _ in range(HOT_LOOKS)]
    kept.close()
    return {"cold": cold, "turns": turns, "hashed": hashed}


def _timed(function: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.thread_time()
    function()
    return time.perf_counter() - wall, time.thread_time() - cpu


def _call(present: list[str], absent: list[str]) -> None:
    for path in present:
        os.stat(path)  # noqa: PTH116  # as a look-up calls it
    for path in absent:
        os.access(path, os.F_OK)


if __name__ == "__main__":
    print(json.dumps(_measure(*sys.argv[1:])))
