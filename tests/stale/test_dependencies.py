"""The recorder against the compilers' own lists of what they read (``-MD``)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from ajit._compile.recorder.places import places_of
from ajit._compile.toolchains.environment import compiler_environment
from ajit._compile.toolchains.toolchains import Toolchains
from ajit._compile.worker.text import label_of
from tests.compile.support import Bench, job, kind_of_compiler, settings
from tests.stale.world import KERNEL, MANY_JOBS

if TYPE_CHECKING:
    from pathlib import Path

    from ajit._core.job import Seen

SOURCE = """
#include <vector_types.h>
#include <stdint.h>
#include "deep/a.h"
#define NAME <b.h>
#if __has_include(NAME)
#include NAME
#endif
"""


@pytest.fixture(params=["nvcc", "host"])
def kind(request: pytest.FixtureRequest, missing: dict[str, str]) -> str:
    """The compilers that write such lists."""
    if why := missing.get(request.param):
        pytest.skip(why)
    name: str = request.param
    return name


def test_the_recorder_sees_what_the_compilers_own_list_names(
    kind: str, user: Path, tmp_path: Path
) -> None:
    """All files but the source and what lies in the job's folder; neither has one more."""
    (user / "deep").mkdir()
    (user / "deep" / "a.h").write_text('#include "../c.h"\n')
    (user / "b.h").write_text("#define V C\n")
    (user / "c.h").write_text("#pragma once\n#define C 1\n")
    listed = tmp_path / "listed.d"
    options = ("-MD", "-MF", str(listed))
    arch = kind_of_compiler(kind).arch
    given = job(
        SOURCE + KERNEL,
        ("k",),
        compiler=kind,
        arch=arch,
        include_dirs=(str(user),),
        options=options if kind == "host" else (),
    )
    bench = Bench(**MANY_JOBS)
    try:
        task = bench.task(given)
        seen: list[Seen] = []
        task.on_seen = seen.append
        bench.slot.perform(task)
    finally:
        bench.close()
    toolchain = Toolchains(settings()).find(kind)  # type: ignore[arg-type]
    if kind == "nvcc":
        # It would refuse -MD among the options, since it is asked for PTX and for a cubin.
        source = tmp_path / "source.cu"
        source.write_text(SOURCE + KERNEL)
        command = [toolchain.path, f"-arch={arch}", "-std=c++17", f"-I{user}", "-M", str(source)]
        command += [part for path in toolchain.include_dirs for part in ("-isystem", path)]
        command += ["-MF", str(listed)]
        subprocess.run(command, check=True, env=compiler_environment())
    places = places_of(
        given.include_dirs, options, toolchain.include_dirs, toolchain.path, label_of(given.name)
    )
    read = {places.path(item.place, item.name) for item in seen[0].reads if item.kind == "file"}

    assert seen[0].blind == ""
    expected = _files(listed, {str(tmp_path / "source.cu"), "source.cpp", str(listed)})
    assert _headers(read) == expected


def _files(listed: Path, own: set[str]) -> set[str]:
    """The files of a list in make's form: without its target, and without the job's own."""
    text = listed.read_text().replace("\\\n", " ").partition(":")[2]
    names = re.split(r"(?<!\\)\s+", text.strip())
    return {os.path.realpath(name) for name in names if name not in own and name}


def _headers(paths: set[str | None]) -> set[str]:
    """Without programs, libraries, and what gcc and nvcc read for themselves."""
    real = {os.path.realpath(path) for path in paths if path}
    return {path for path in real if not _is_program(path)}


def _is_program(path: str) -> bool:
    return (
        os.access(path, os.X_OK)
        or ".so" in path
        or path.endswith((".a", ".o", ".profile", ".spec", ".bc", ".conf", ".cache"))
        or path.startswith(("/etc/", "/proc/"))
        or shutil.which(path.rpartition("/")[2]) == path
    )
