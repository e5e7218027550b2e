"""Two installations of one tree share their kernels, unless a kernel holds a path of one."""

from __future__ import annotations

import platform
import shutil
from typing import TYPE_CHECKING

import pytest

from ajit._core import events
from ajit._resolve import resolver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import ajit
    from tests.stale.world import Server

FILE_NAME = "__device__ const char* file() { return __FILE__; }\n#define V (file()[x[1]])\n"
LENGTH = "enum { LENGTH = sizeof(__FILE__) };\n#define V LENGTH\n"
FUNCTION = "static __device__ int f(int* x) { return x[1] + x[2]; }\n#define V f(x)\n"


@pytest.fixture
def trees(tmp_path: Path) -> list[Path]:
    """Two installations, whose paths are of different length."""
    made = [tmp_path / "venv", tmp_path / "another" / "venv"]
    for root in made:
        (root / "include" / "lib").mkdir(parents=True)
        (root / "include" / "lib" / "a.h").write_text('#include "b.h"\n#include <lib/c.h>\n')
        (root / "include" / "lib" / "c.h").write_text("#define ADDED 1\n")
    return made


def ask_both(
    server: Server, trees: list[Path], header: str, make: Callable[[Path], ajit.Spec]
) -> list[str]:
    """Ask for one kernel with each tree, checked against fresh compiles; returns the keys."""
    keys = []
    for root in trees:
        (root / "include" / "lib" / "b.h").write_text(header)
        server.check(make(root / "include"))
        keys.append(server.key)
    return keys


def test_two_installations_share_one_entry(
    server: Server, trees: list[Path], asking: Callable[..., ajit.Spec]
) -> None:
    """The second one compiles nothing."""

    def make(include: Path) -> ajit.Spec:
        return asking("#include <lib/a.h>", include_dirs=[include])

    shutil.rmtree(trees[1])
    ask_both(server, trees[:1], "#define V 1\n", make)
    shutil.copytree(trees[0], trees[1])
    server.check(make(trees[0] / "include"))
    compiles, key = server.compiles(), server.key
    shutil.rmtree(trees[0])  # a list that names its files by their paths does not hold any more
    server.check(make(trees[1] / "include"))

    assert server.key == key
    assert server.compiles() == compiles


@pytest.mark.parametrize(
    "header", [FILE_NAME, LENGTH, FUNCTION], ids=["__FILE__", "length", "function"]
)
@pytest.mark.parametrize("options", [[], ["-lineinfo"], ["-G"], ["-g"]], ids=str)
def test_a_kernel_that_holds_a_path_is_not_shared_with_another_one(
    server: Server,
    trees: list[Path],
    asking: Callable[..., ajit.Spec],
    header: str,
    options: list[str],
    compiler: str,
) -> None:
    """Each installation gets what a fresh compile there gives."""
    if compiler == "nvcc" and header == FUNCTION and {"-lineinfo", "-G"} & set(options):
        pytest.skip("nvcc calls a function without linkage by a new name in each compile")

    def make(include: Path) -> ajit.Spec:
        return asking("#include <lib/a.h>", include_dirs=[include], options=options)

    ask_both(server, trees, header, make)


@pytest.mark.parametrize("text", [FILE_NAME, LENGTH], ids=["__FILE__", "length"])
@pytest.mark.parametrize("options", [[], ["-lineinfo"], ["-g"]], ids=str)
def test_a_kernel_that_holds_its_label_is_not_shared_with_another_label(
    server: Server, asking: Callable[..., ajit.Spec], text: str, options: list[str]
) -> None:
    """Two names for one source give one kernel, unless it is in there."""
    for name in ("first", "the second", "first"):
        server.check(asking(text, name=name, options=options))


def test_a_directory_of_an_option_leaves_its_trace(
    server: Server, trees: list[Path], asking: Callable[..., ajit.Spec]
) -> None:
    """No prefix of it is mapped."""

    def make(include: Path) -> ajit.Spec:
        return asking("#include <lib/a.h>", include_dirs=[], options=["-isystem", str(include)])

    # NVRTC does not know the flag; what it says of it is the same each time.
    ask_both(server, trees, FILE_NAME, make)


def test_a_directory_that_only_one_installation_has_is_searched(
    server: Server, trees: list[Path], asking: Callable[..., ajit.Spec]
) -> None:
    """A compiler drops directories that are not there before it looks for any header."""

    def make(include: Path) -> ajit.Spec:
        return asking("#include <lib/a.h>", include_dirs=[include.parent / "extra", include])

    (trees[1] / "extra" / "lib").mkdir(parents=True)
    (trees[1] / "extra" / "lib" / "a.h").write_text("#define V 2\n")
    first, second = ask_both(server, trees, "#define V 1\n", make)

    assert first != second


@pytest.mark.parametrize("option", ["-march=native", "-mtune=native"])
def test_an_option_that_means_this_machine_puts_it_into_the_key(
    server: Server, asking: Callable[..., ajit.Spec], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """Another kind of machine does not get this one's code."""
    spec = asking("#define V 1", options=[option])
    if spec.arch != platform.machine():
        spec = asking("#define V 1", options=["-Xcompiler", option])
    bases = []
    for machine in ("this kind", "another kind", "this kind"):
        monkeypatch.setattr(resolver, "this_machine", lambda machine=machine: machine)
        server.said.clear()
        server.answer(spec)
        bases += [e.key[:16] for e in server.said if isinstance(e, events.KernelReady)]
        bases += [e.key[:16] for e in server.said if isinstance(e, events.CompileFailed)]

    assert len(bases) >= 2
    assert len(set(bases)) == 2


def test_directories_in_each_other_are_told_from_others(
    server: Server, tmp_path: Path, asking: Callable[..., ajit.Spec]
) -> None:
    """``inc/x.h`` is called by the inner directory, and found from the outer one."""
    for name, value in (("a", 1), ("b", 2), ("c", 1)):
        (tmp_path / name / "inc").mkdir(parents=True)
        (tmp_path / name / "inc" / "x.h").write_text(f"#define V {value}\n")

    for outer, inner in (("a", "a"), ("b", "c"), ("a", "c"), ("b", "b")):
        dirs = [tmp_path / outer, tmp_path / inner / "inc"]
        server.check(asking('#include "inc/x.h"', include_dirs=dirs))


@pytest.mark.parametrize("spelt_in", ["source", "define", "header", "header of no directory"])
def test_an_absolute_path_means_the_same_file_wherever_the_directories_are(
    server: Server, tmp_path: Path, asking: Callable[..., ajit.Spec], spelt_in: str
) -> None:
    """It lies in a directory of the spec, and is read whatever lies in that of another one."""
    one, other, third = (tmp_path / name for name in ("one", "other", "third"))
    absolute, outside = f'"{one}/x.h"', third / "w.h"
    for folder in (one, other, third):
        folder.mkdir()
        (folder / "w.h").write_text(f"#include {absolute}\n")
    source, defines = {
        "source": (f"#include {absolute}", {}),
        "define": ("#include HEADER", {"HEADER": absolute}),
        "header": ('#include "w.h"', {}),
        "header of no directory": (f'#include "{outside}"', {}),
    }[spelt_in]

    (one / "x.h").write_text("#define V 1\n")
    server.check(asking(source, include_dirs=[one], defines=defines))
    (other / "x.h").write_text("#define V 1\n")
    (one / "x.h").write_text("#define V 2\n")
    server.check(asking(source, include_dirs=[other], defines=defines))
