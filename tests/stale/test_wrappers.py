"""Compilers that are scripts around a compiler: what else they read decides a kernel as well."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

import ajit
from tests.stale.world import KERNEL, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TOOL = """
#include <stdio.h>
int main(int count, char** names) {
    char text[100];
    FILE* file = fopen(names[count - 1], "r");
    return file == NULL || fgets(text, 100, file) == NULL || fputs(text, stdout) < 0;
}
"""


@pytest.fixture
def gcc() -> str:
    """A compiler to wrap."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("g++ is not here")
    return found


@pytest.fixture
def wrapped(tmp_path: Path, gcc: str) -> Iterator[Callable[[str], Server]]:
    """A server whose compiler is a script: some lines that set FLAGS, then the compiler."""
    servers: list[Server] = []

    def make(lines: str) -> Server:
        script = tmp_path / "g++"
        script.write_text(f'#!/bin/sh\n{lines}\nexec {gcc} $FLAGS "$@"\n')
        script.chmod(0o755)
        servers.append(Server(tmp_path / "cache", host_compiler=str(script)))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def edited(server: Server, config: Path) -> bool:
    """Ask before and after an edit of a wrapper's configuration; whether both were published."""
    spec = ajit.Spec(KERNEL, "k", arch=platform.machine(), compiler="host", params="int* x")
    answers = []
    for number in (2, 3):
        config.write_text(f"-DV={number}\n")
        answers.append(server.check(spec))

    assert answers[0] != answers[1]
    return server.unpublished() == 0


def test_a_wrapper_that_takes_the_recorders_descriptor_is_followed(
    wrapped: Callable[[str], Server], tmp_path: Path
) -> None:
    """A shell gives low numbers to what it is told to; nothing is written there."""
    config, log = tmp_path / "config", tmp_path / "log"
    server = wrapped(f"exec 3>>{log} 4>&3 5>&3\nread -r FLAGS < {config}")

    assert edited(server, config)
    assert log.read_bytes() == b""


@pytest.mark.filterwarnings("ignore::ajit.AjitWarning")
def test_a_wrapper_that_clears_the_environment_is_not_relied_on(
    wrapped: Callable[[str], Server], tmp_path: Path
) -> None:
    """What a program reads that runs without the recorder cannot be seen."""
    config = tmp_path / "config"

    assert not edited(wrapped(f"FLAGS=$(env -i cat {config})"), config)


@pytest.mark.filterwarnings("ignore::ajit.AjitWarning")
def test_a_wrapper_that_runs_a_static_program_is_not_relied_on(
    wrapped: Callable[[str], Server], tmp_path: Path, gcc: str
) -> None:
    """It ignores what is preloaded."""
    (tmp_path / "tool.cpp").write_text(TOOL)
    command = [gcc, "-static", "-o", str(tmp_path / "tool"), str(tmp_path / "tool.cpp")]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no static C library")
    config = tmp_path / "config"

    assert not edited(wrapped(f"FLAGS=$({tmp_path}/tool {config})"), config)


def test_a_header_in_a_directory_of_programs_is_seen(
    tmp_path: Path, gcc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An include directory may be in PATH as well."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{tmp_path}")
    source = f"#if __has_include(<a.h>)\n#define V 2\n#else\n#define V 1\n#endif{KERNEL}"
    fields = {"arch": platform.machine(), "compiler": "host", "include_dirs": [tmp_path]}
    spec = ajit.Spec(source, "k", params="int* x", **fields)  # type: ignore[arg-type]
    server = Server(tmp_path / "cache", host_compiler=gcc)
    before = server.check(spec)
    (tmp_path / "a.h").write_text("")

    assert server.check(spec) != before
    server.close()


def test_another_assembler_that_comes_first_in_the_path_is_used(
    tmp_path: Path, gcc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It appears between two starts of a server, and puts other bytes into the kernel."""
    text = '__asm__(".pushsection .rodata\\n.ascii \\"WRITTEN\\"\\n.popsection");'
    fields = {"arch": platform.machine(), "compiler": "host", "params": "int* x"}
    spec = ajit.Spec(f"{text}\n#define V 1{KERNEL}", "k", **fields)  # type: ignore[arg-type]
    first = Server(tmp_path / "cache", host_compiler=gcc)
    before = first.check(spec)
    first.close()
    script = tmp_path / "as"
    script.write_text(
        "#!/bin/sh\nfor last; do :; done\nsed -i s/WRITTEN/CHANGED/ $last 2> /dev/null\n"
        f'exec {shutil.which("as")} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    second = Server(tmp_path / "cache", host_compiler=gcc)
    after = second.check(spec)
    second.close()

    assert b"WRITTEN" in before.code
    assert b"CHANGED" in after.code
