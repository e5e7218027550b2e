"""What a compiler reads, and what it looks for in vain, is recorded; or it is said why not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._compile.pool import worker_process
from ajit._compile.recorder.digests import CHUNK_BYTES, MAX_FILE_BYTES, FileStamp
from ajit._compile.recorder.places import Places
from ajit._compile.recorder.states import Unsettled, settle
from ajit._compile.toolchains.discovery import NATIVE_DIR
from ajit._compile.worker.records import unpack_records
from ajit._core.job import Seen, SeenRead
from tests.compile.support import Bench, job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ajit._core.job import CompileJob

HERE = Path(__file__).parent
LIBRARY = Path(NATIVE_DIR) / "libajit_recorder.so"
SOURCE = """
#include "tile.h"
#if __has_include("optional.h")
#include "optional.h"
#endif
extern "C" __global__ void plain(float* x) { x[0] = TILE; }
"""


@pytest.fixture
def include(tmp_path: Path) -> Path:
    """An include directory with two headers, one of which includes the other."""
    folder = tmp_path / "include"
    (folder / "sub").mkdir(parents=True)
    (folder / "tile.h").write_text('#include "sub/value.h"\n#define TILE VALUE\n')
    (folder / "sub" / "value.h").write_text("#define VALUE 1\n")
    return folder


@pytest.fixture
def seen_by() -> Iterator[Callable[..., Seen]]:
    """Compiles a job and returns what was seen of it."""
    benches: list[Bench] = []

    def compiled(given: CompileJob, **settings: object) -> Seen:
        bench = Bench(**settings)
        benches.append(bench)
        found: list[Seen] = []
        task = bench.task(given)
        task.on_seen = found.append
        bench.slot.perform(task)
        [seen] = found
        return seen

    yield compiled
    for bench in benches:
        bench.close()


def names(seen: Seen, kind: str, place: str = "i0") -> list[str]:
    """What was read, or missed, in an include directory."""
    return [read.name for read in seen.reads if (read.kind, read.place) == (kind, place)]


def test_reads_and_misses_are_seen_in_order(compiler, include, seen_by):
    """Of each kind of compiler; nothing of the job's own folder is among them."""
    seen = seen_by(job(SOURCE, include_dirs=(str(include),), **compiler))

    assert seen.blind == ""
    assert names(seen, "file") == ["tile.h", "sub/value.h"]
    assert "optional.h" in names(seen, "absent")
    assert all(read.stamp for read in seen.reads if read.kind == "file")
    assert not [read for read in seen.reads if "ajit-" in read.name or "plain.cu" in read.name]


def test_a_source_that_reads_nothing_has_no_list(seen_by):
    """NVRTC has its own headers in itself."""
    assert seen_by(job()).reads == ()


def test_each_job_of_a_worker_is_recorded_by_itself(include, seen_by, own_bench):
    """What the job before has read is not in the list of the next one."""
    found: list[Seen] = []
    for source in (SOURCE, 'extern "C" __global__ void plain() {}', SOURCE):
        task = own_bench.task(job(source, include_dirs=(str(include),)))
        task.on_seen = found.append
        own_bench.slot.perform(task)

    assert [names(seen, "file") for seen in found] == [
        ["tile.h", "sub/value.h"],
        [],
        ["tile.h", "sub/value.h"],
    ]


def test_without_its_library_a_worker_says_that_it_is_blind(monkeypatch, include, seen_by):
    """And the kernel is compiled all the same."""
    monkeypatch.setattr(worker_process, "_preloaded", dict)
    seen = seen_by(job(SOURCE, include_dirs=(str(include),)))

    assert "libajit_recorder.so is not there" in seen.blind
    assert seen.reads == ()


def test_a_library_that_is_not_preloaded_is_found_out(monkeypatch, include, seen_by, tmp_path):
    """The worker looks for its own look: here it finds a library that records nothing."""
    source = tmp_path / "empty.c"
    source.write_text("void ajit_record_start(int fd) {(void)fd;} void ajit_record_stop(void) {}")
    library = tmp_path / "empty.so"
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True, timeout=60)
    monkeypatch.setattr(worker_process, "_preloaded", lambda: {"LD_PRELOAD": str(library)})
    seen = seen_by(job(SOURCE, include_dirs=(str(include),)))

    assert "preloading has no effect" in seen.blind


def test_the_library_may_lie_at_a_path_with_spaces(monkeypatch, include, seen_by, tmp_path):
    """The loader separates libraries by spaces and colons."""
    folder = tmp_path / "my apps: x"
    folder.mkdir()
    shutil.copy(LIBRARY, folder)
    monkeypatch.setattr(worker_process, "NATIVE_DIR", str(folder))
    monkeypatch.setattr(worker_process, "_preloaded", worker_process._preloaded.__wrapped__)
    seen = seen_by(job(SOURCE, include_dirs=(str(include),)))

    assert names(seen, "file") == ["tile.h", "sub/value.h"]


HOST = {"compiler": "host", "arch": os.uname().machine}

WRAPPERS = {
    "closes every descriptor": "os.closerange(3, 256); os.execv(real, [real, *sys.argv[1:]])",
    "is a process between": "sys.exit(subprocess.call([real, *sys.argv[1:]]))",
}


@pytest.mark.parametrize("what", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_a_wrapper_around_the_compiler_hides_nothing(include, seen_by, tmp_path, what):
    """Descriptors that it closes are opened again; the environment goes through."""
    wrapper = tmp_path / "c++"
    real = f"real = {shutil.which('c++')!r}"
    wrapper.write_text(f"#!{sys.executable} -IS\nimport os, subprocess, sys\n{real}\n{what}\n")
    wrapper.chmod(0o755)
    given = job(SOURCE, include_dirs=(str(include),), **HOST)
    seen = seen_by(given, host_compiler=str(wrapper))

    assert seen.blind == ""
    assert names(seen, "file") == ["tile.h", "sub/value.h"]


def test_a_wrapper_that_drops_the_environment_is_found_out(include, seen_by, tmp_path):
    """Ajit's own header, which every source gets, is not among the records."""
    wrapper = tmp_path / "c++"
    wrapper.write_text(f'#!/bin/sh\nexec env -i PATH="$PATH" {shutil.which("c++")} "$@"\n')
    wrapper.chmod(0o755)
    given = job(SOURCE, include_dirs=(str(include),), **HOST)
    seen = seen_by(given, host_compiler=str(wrapper))

    assert f", which {wrapper} starts, reads cannot be seen" in seen.blind


def test_a_pipe_is_not_what_it_was(include, seen_by, tmp_path):
    """What comes out of it cannot be known again, so nothing is shared that has read it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    wrapper = tmp_path / "c++"
    feed = f'[ -n "$AJIT_READS" ] && (echo "#define TILE 2" > {pipe}) > /dev/null 2>&1 &'
    wrapper.write_text(f'#!/bin/sh\n{feed}\nexec {shutil.which("c++")} "$@"\n')
    wrapper.chmod(0o755)
    options = ("-imacros", str(pipe))
    source = 'extern "C" __global__ void plain(float* x) { x[0] = TILE; }'
    seen = seen_by(job(source, options=options, **HOST), host_compiler=str(wrapper))

    assert "no file" in seen.blind


def test_a_header_that_cannot_be_opened_is_not_taken_for_absent(include, seen_by, tmp_path):
    """A link in a circle may lead somewhere tomorrow, before the header that was found instead."""
    first = tmp_path / "first"
    first.mkdir()
    (first / "tile.h").symlink_to("tile.h")
    dirs = (str(first), str(include))
    seen = seen_by(job(SOURCE, include_dirs=dirs))

    assert "could not open" in seen.blind


# --- the library ---


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that makes every call."""
    program = tmp_path_factory.mktemp("calls") / "calls"
    command = ["cc", "-O1", "-pthread", HERE / "recorded_calls.c", "-o", program]
    subprocess.run(command, check=True, timeout=60)
    return program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the program finds."""
    for name in ("open", "open64", "openat", "openat64", "fopen", "fopen64"):
        (tmp_path / f"read-by-{name}").write_text("text")
    (tmp_path / "looked-by-stat").write_text("")
    (tmp_path / "looked-by-access").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def recorded(calls: Path, folder: Path, how: str) -> tuple[list, str]:
    """Records of the program, by kind and name, and what it printed."""
    descriptor = os.memfd_create("records")
    environment = {
        "LD_PRELOAD": str(LIBRARY),
        "AJIT_READS": f"/proc/{os.getpid()}/fd/{descriptor}",
    }
    printed = subprocess.run(
        [calls, folder, how], env=environment, stdout=subprocess.PIPE, check=True, timeout=60
    )
    records = list(unpack_records(os.pread(descriptor, 1 << 26, 0)))
    os.close(descriptor)
    made = [(chr(kind), path, state) for kind, path, state in records]
    return made, printed.stdout.decode()


EXPECTED = {
    *(("r", f"read-by-{name}") for name in ("open", "open64", "openat", "openat64")),
    *(("r", f"read-by-{name}") for name in ("fopen", "fopen64")),
    *(("a", f"missed-by-{name}") for name in ("open", "fopen", "stat", "lstat", "fstatat")),
    *(("a", f"missed-by-{name}") for name in ("statx", "access", "faccessat")),
    ("a", "missing-folder/x.h"),
    ("a", "read-by-open/x.h"),
    ("f", "loop"),
    ("p", "looked-by-stat"),
    ("p", "looked-by-access"),
    ("s", "pipe"),
    *(("w", name) for name in ("made", "renamed", "linked", "pointing")),
    ("r", "renamed"),
}


@pytest.mark.parametrize("how", ["each", "closed"])
def test_every_call_is_recorded(calls, folder, how):
    """Also after the program has closed the recorder's descriptor; directories aside."""
    records, _ = recorded(calls, folder, how)
    found = {
        (kind, path.removeprefix(f"{folder}/"))
        for kind, path, _ in records
        if path.startswith(f"{folder}/") and not path.endswith("/.")
    }

    assert found == EXPECTED
    assert records[0][:2] == ("x", str(calls))


def test_a_read_file_is_recorded_with_its_state(calls, folder):
    """What it was when it was opened, to tell later whether it changed."""
    records, _ = recorded(calls, folder, "each")
    info = (folder / "read-by-open").stat()
    expected = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    [state] = [state for kind, path, state in records if path.endswith("/read-by-open")]

    assert state[:5] == expected
    assert abs(state[5] - info.st_ctime_ns) < 60e9, "when it was opened, by a coarse clock"


def test_a_program_that_is_replaced_while_it_runs_is_not_taken_for_the_new_one(calls, tmp_path):
    """Its record has the state of the file that began, and that is no longer there."""
    program = tmp_path / "program"
    shutil.copy(calls, program)
    began = FileStamp.of(str(program))
    records, _ = recorded(program, tmp_path, "many")
    program.unlink()
    shutil.copy(calls, program)
    [state] = [state for kind, path, state in records if kind == "x"]
    read = SeenRead("/", str(program), "file", state[:5], state[5])

    assert state[:5] == began
    assert isinstance(settle(Seen((read,)), Places((), "k.cu"), b""), Unsettled)


def test_a_file_above_the_limit_has_no_digest_and_the_reason_says_so(tmp_path):
    """It did not change: what includes it is returned, and not kept."""
    with (tmp_path / "large.h").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    stamp = FileStamp.of(str(tmp_path / "large.h"))
    read = SeenRead("/", str(tmp_path / "large.h"), "file", tuple(stamp), time.time_ns() + 10**10)
    settled = settle(Seen((read,)), Places((), "k.cu"), b"")

    assert isinstance(settled, Unsettled)
    assert (settled.changed, f"more than {MAX_FILE_BYTES} bytes" in settled.reason) == (False, True)


@pytest.mark.parametrize("before", [0, 7, CHUNK_BYTES - 3, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_a_header_that_asks_for_its_name_is_found_wherever_it_does(tmp_path, before):
    """The text is looked through piece by piece: a header may be large."""
    header = tmp_path / "asks.h"
    header.write_bytes(b" " * before + b"__FILE__" + b" " * CHUNK_BYTES)
    stamp = FileStamp.of(str(header))
    read = SeenRead("i0", "asks.h", "file", tuple(stamp), time.time_ns() + 10**10)
    settled = settle(Seen((read,)), Places((("i0", f"{tmp_path}/"),), "k.cu"), b"")

    assert [read.place for read in settled.list.reads if read.kind == "same"] != []


def test_the_program_is_as_without_the_recorder(calls, folder, tmp_path_factory):
    """Results and errno of every call are those of the call itself."""
    _, printed = recorded(calls, folder, "each")
    for name in ("renamed", "pointing"):
        (folder / name).unlink()
    plain = subprocess.check_output([calls, folder, "each"], timeout=60).decode()

    assert printed == plain
    assert printed.count("\n") == 11


def test_records_of_many_threads_and_processes_stay_whole(calls, folder):
    """Each is one write in append mode."""
    records, _ = recorded(calls, folder, "many")
    opens = [path for kind, path, _ in records if kind == "r"]

    assert opens == [f"{folder}/read-by-open"] * 4 * 4 * 500


def test_the_library_needs_nothing_but_libc():
    """No Python symbol, no other library: it is loaded into programs of all kinds."""
    symbols = subprocess.check_output(["nm", "-D", LIBRARY], timeout=60).decode()
    needed = subprocess.check_output(["readelf", "-d", LIBRARY], timeout=60).decode()

    assert "Py" not in symbols
    libraries = [line.split("[")[1].rstrip("]") for line in needed.splitlines() if "NEEDED" in line]
    assert set(libraries) <= {"libc.so.6", "libdl.so.2", "libpthread.so.0"}
