"""A compile in the sandbox reads, writes and reaches what it may, and works as outside of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ajit._compile.pool.slot import check_sandbox
from ajit._compile.worker import landlock, sandbox
from ajit.errors import CompileError, SettingsError
from tests.compile.support import Bench, job, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._core.job import Seen

PROJECT = Path(__file__).parents[3]
ALLOWED = {
    "read what is allowed",
    "write in its folder",
    "make and remove there",
    "write to nothing",
    "run a program",
}
needs_landlock = pytest.mark.skipif(bool(landlock.missing()), reason=landlock.missing() or "-")


@pytest.fixture
def boxed() -> Iterator[Bench]:
    """A slot whose workers confine themselves."""
    bench = Bench(sandbox="landlock")
    yield bench
    bench.close()


@pytest.fixture
def listeners() -> Iterator[tuple[int, str]]:
    """Two sockets that listen: the port of one, and the abstract name of the other."""
    name = f"ajit-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0{name}")
        unix.listen()
        yield tcp.getsockname()[1], name


@needs_landlock
def test_a_confined_process_leaves_by_no_way(tmp_path: Path, listeners: tuple[int, str]) -> None:
    """Files, programs, sockets: each way that is not allowed is refused, all others work."""
    allowed, own, outside = (tmp_path / name for name in ("allowed", "own", "outside"))
    for folder in (allowed, own, outside):
        folder.mkdir()
    (allowed / "file").write_text("theirs")
    (outside / "file").write_text("kept")
    (outside / "program").write_text("#!/bin/sh\n")
    (outside / "program").chmod(0o755)
    command = [sys.executable, Path(__file__).with_name("escape.py"), allowed, own, outside]
    done = subprocess.run(
        [*map(str, command), *map(str, listeners)], env=os.environ | {"PYTHONPATH": str(PROJECT)},
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    outcomes = json.loads(done.stdout.splitlines()[-1])

    assert {name for name, outcome in outcomes.items() if outcome == "done"} == ALLOWED
    assert {outcome for name, outcome in outcomes.items() if name not in ALLOWED} == {"refused"}
    assert (outside / "file").read_text() == "kept"
    assert (allowed / "file").read_text() == "theirs"


@needs_landlock
def test_each_compiler_makes_the_same_in_the_sandbox(
    boxed: Bench, bench: Bench, compiler: dict[str, str], tmp_path: Path
) -> None:
    """The same code from the same reads: they are recorded as outside."""
    (tmp_path / "tile.h").write_text("#define TILE 4\n")
    source = (
        '#include "tile.h"\n#include <cuda_fp16.h>\n#include "virtual.h"\n'
        'extern "C" __global__ void plain(float* x) { x[0] = TILE + __half2float(__half()); }'
    )
    given = job(source, include_dirs=(str(tmp_path),), headers=(("virtual.h", "\n"),), **compiler)
    inside, outside = (_compiled(slot, given) for slot in (boxed, bench))

    assert inside[0] == outside[0]
    assert inside[1].blind == ""
    assert _names(inside[1]) == _names(outside[1])
    assert any(read.name == "tile.h" and read.stamp for read in inside[1].reads)


@needs_landlock
@pytest.mark.parametrize("way", ["#include", "#include_next", ".incbin"])
def test_a_source_cannot_read_other_files(
    boxed: Bench, compiler: dict[str, str], tmp_path: Path, way: str
) -> None:
    """Neither into the log nor into the kernel."""
    if way != "#include" and compiler["compiler"] != "host":
        pytest.skip("only host compilers have it")
    secret = tmp_path / "secret.h"
    secret.write_text("my words\n")
    line = f'{way} "{secret}"' if way[0] == "#" else f'__asm__("{way} \\"{secret}\\"");'
    given = job(f'#undef asm\n{line}\nextern "C" __global__ void plain(float* x) {{}}', **compiler)
    with pytest.raises(CompileError, match=r"ermission denied|file not found") as caught:
        boxed.compile(given)

    assert "my words" not in caught.value.log
    assert "sandbox" in " ".join(caught.value.__notes__)


@needs_landlock
def test_a_compiler_that_misbehaves_is_held(
    tmp_path: Path, listeners: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program named by the settings is run, and does no more than the sandbox allows."""
    port, _ = listeners
    monkeypatch.setenv("SECRET", "of the server")
    program = tmp_path / "bin" / "cxx"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/bash\n"
        'case "$*" in *--version*) echo "g++ 1.0"; exit;; *-dumpmachine*) echo x; exit;; esac\n'
        f"echo x > {tmp_path}/written && echo WRITTEN\n"
        f"(exec 3<>/dev/tcp/127.0.0.1/{port}) && echo CONNECTED\n"
        f"cat {tmp_path}/secret && echo READ\n"
        'tr "\\0" "\\n" < /proc/$PPID/environ; echo ENDED; exit 1\n'
    )
    program.chmod(0o755)
    (tmp_path / "secret").write_text("my words")
    bench = Bench(sandbox="landlock", host_compiler=str(program))
    with contextlib.closing(bench), pytest.raises(CompileError) as caught:
        bench.compile(job(compiler="host", arch=os.uname().machine))

    assert "ENDED" in caught.value.log
    assert not re.search("WRITTEN|CONNECTED|READ|my words|of the server", caught.value.log)
    assert not (tmp_path / "written").exists()


@needs_landlock
def test_more_paths_may_be_read(tmp_path: Path) -> None:
    """What the setting names beside the spec's own directories."""
    (tmp_path / "value.h").write_text("#define VALUE 1\n")
    source = f'#include "{tmp_path}/value.h"\nextern "C" __global__ void plain(float* x) {{}}'
    bench = Bench(sandbox="landlock", sandbox_paths=f"/nonexistent:{tmp_path}")
    with contextlib.closing(bench):
        assert bench.compile(job(source)).data


@needs_landlock
def test_a_confined_worker_does_one_job(boxed: Bench) -> None:
    """The next one's directories are others, and what is confined stays so."""
    for _ in range(2):
        boxed.compile(job())

    assert (boxed.slot.started, boxed.slot.worker_pid) == (2, None)


def test_a_home_directory_is_not_readable_because_a_compiler_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a compiler's root only the parts of a compiler; of a lone program only that."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for program in (tmp_path / "bin" / "cxx", tmp_path / "cxx"):
        request = _request(str(program))
        readable = sandbox.rules_of(request).readable

        assert str(program) in readable
        assert str(tmp_path) not in readable


SWITCHED_OFF = """
import ctypes, errno, struct, sys
sys.path.insert(0, {project!r})
from ajit._compile.worker import landlock
libc = ctypes.CDLL(None, use_errno=True)
lines = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x50000 | errno.ENOSYS), (0x06, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("=HBBI", *line) for line in lines)
text = ctypes.create_string_buffer(code, len(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, struct.pack("@HP", len(lines), ctypes.addressof(text)), 0, 0) == 0
import ajit, anyio
async def main():
    async with ajit.open_runtime(device="none", cache_dir={cache!r}, sandbox="landlock"):
        pass
try:
    anyio.run(main)
except ajit.SettingsError as exc:
    print(exc)
"""  # noqa: E501 - a program


def test_a_kernel_without_landlock_is_said_at_the_opening(tmp_path: Path) -> None:
    """In a process for which the kernel does not know the call."""
    program = SWITCHED_OFF.format(project=str(PROJECT), cache=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )

    assert "setting sandbox is 'landlock' (from argument)" in done.stdout, done.stderr
    assert "no Landlock" in done.stdout


def test_an_old_landlock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before version 3 a confined process could empty any file."""
    monkeypatch.setattr(landlock, "_abi", lambda: 2)

    with pytest.raises(SettingsError, match="version 2, 3 is needed"):
        check_sandbox(settings(sandbox="landlock"))
    check_sandbox(settings())


def _compiled(slot: Bench, given: object) -> tuple[bytes, Seen]:
    seen: list[Seen] = []
    task = slot.task(given)
    task.on_seen = seen.append
    return slot.slot.perform(task).data, seen[-1]


def _names(seen: Seen) -> set[tuple[str, str, str]]:
    return {(read.place, read.name, read.kind) for read in seen.reads}


def _request(program: str) -> object:
    return SimpleNamespace(
        job=SimpleNamespace(include_dirs=(), options=()), command=(program,), include_dirs=(),
        flags=(), folder="/nonexistent/x", sandbox=(),
    )  # fmt: skip
