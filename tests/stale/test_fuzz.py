"""Random header trees and edits: the cache gives nothing that a fresh compile does not give.

What shows that the fuzz would find a stale kernel: with a bug planted in the recorder, in what is
made of its records, or in the digests of files, it does.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._compile.pool import worker_process
from ajit._compile.recorder.digests import FileStamp, digests
from ajit._compile.toolchains.discovery import NATIVE_DIR
from tests.stale import fuzz
from tests.stale.world import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNS = [
    *[("nvrtc", seed, 230) for seed in range(1, 9)],
    *[("host", seed, 60) for seed in range(1, 4)],
    *[("nvcc", seed, 20) for seed in range(1, 3)],
]
"""2 060 rounds. NVRTC sees most of them, since it is the quickest."""

PLANTED_SEEDS = (11, 12, 13, 14)
PLANTED_ROUNDS = 150


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Start a server of the test's own, whose workers have whatever was planted by then."""
    started: list[Server] = []

    def start() -> Server:
        started.append(Server(tmp_path / f"cache{len(started)}"))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute where the machine is idle
@pytest.mark.parametrize(("compiler", "seed", "rounds"), RUNS)
def test_no_kernel_is_stale_after_random_edits(
    own_server: Callable[[], Server],
    missing: dict[str, str],
    tmp_path: Path,
    compiler: str,
    seed: int,
    rounds: int,
) -> None:
    """The seed alone decides the trees, the kernels and the edits."""
    if why := missing.get(compiler):
        pytest.skip(why)
    tally = fuzz.run(own_server(), tmp_path, compiler, seed, rounds)

    assert tally.hits > rounds // 5
    assert tally.different > rounds // 12


WORKER_BUGS = {
    "what was looked for in vain is forgotten": (
        "old = r._reads; r._reads = lambda *a: [x for x in old(*a) if x.kind != 'absent']"
    ),
    "a name is listed with the wrong directory": (
        "old = r.Places.name; r.Places.name = lambda self, path:"
        " (lambda p, n: ('i0' if p == 'i1' else p, n))(*old(self, path))"
    ),
}


def plant_in_worker(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    """Let workers start with changed code."""
    start = worker_process._START
    head, main, tail = start.partition("from ajit._compile.worker.main")
    assert main
    code = f"{head}\nimport ajit._compile.worker.listing as r\n{bug}\n{main}{tail}"
    monkeypatch.setattr(worker_process, "_START", code)


def plant_in_library(monkeypatch: pytest.MonkeyPatch, folder: Path, line: str) -> None:
    """Let workers start with a recorder that has a line more where it writes a record."""
    sources = Path(NATIVE_DIR) / "recorder"
    text = (sources / "notes.c").read_text()
    head, append, tail = text.partition("static void append(const void *record, size_t bytes) {\n")
    assert append
    source, library = folder / "notes.c", folder / "librecorder.so"
    source.write_text(head + append + line + tail)
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    others = [str(path) for path in sources.glob("*.c") if path.name != "notes.c"]
    command = [compiler, "-O1", "-w", "-shared", "-fPIC", "-pthread", f"-I{sources}", str(source)]
    subprocess.run([*command, *others, "-o", str(library), "-ldl"], check=True)
    preloaded = {worker_process.LIBRARY_VARIABLE: str(library)}
    monkeypatch.setattr(worker_process, "_preloaded", lambda: preloaded)


def find_bug(server: Server, tmp_path: Path) -> None:
    """Run the fuzz until it fails, some seeds at most."""
    for seed in PLANTED_SEEDS:
        fuzz.run(server, tmp_path / str(seed), "nvrtc", seed, PLANTED_ROUNDS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", WORKER_BUGS)
def test_a_bug_planted_in_the_recorder_is_found(
    own_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bug: str
) -> None:
    """Each of them makes stale kernels, and the fuzz meets one."""
    plant_in_worker(monkeypatch, WORKER_BUGS[bug])

    with pytest.raises(fuzz.StaleKernel, match="nvrtc"):
        find_bug(own_server(), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_recorder_that_loses_records_is_found(
    own_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One of seven; a worker's own proof that recording works is the first, and passes."""
    plant_in_library(monkeypatch, tmp_path, "static int n; if (++n % 7 == 0) return;\n")

    with pytest.raises(fuzz.StaleKernel, match="nvrtc"):
        find_bug(own_server(), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_digests_that_do_not_look_at_ctime_are_found(
    own_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Size and mtime can be kept."""
    kept: dict[tuple[int, ...], str] = {}
    original = digests.get

    def get(path: str) -> str | None:
        stamp = FileStamp.of(path)
        digest = original(path)
        return None if stamp is None or digest is None else kept.setdefault(stamp[:4], digest)

    monkeypatch.setattr(digests, "get", get)

    with pytest.raises(fuzz.StaleKernel, match="nvrtc"):
        find_bug(own_server(), tmp_path)
