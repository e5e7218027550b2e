"""What a hit gives: the same bytes, modes, texts and exit code as the compiler, and no compile."""

from __future__ import annotations

import os

import pytest

from tests.launcher.support import GXX, NVCC, Build, needs_gxx, needs_nvcc

SOURCE = '#include "a.h"\nint f(int x) { return x + A; }\n'


@pytest.fixture
def project(both_ways: Build) -> Build:
    """A source with a header."""
    both_ways.write("a.cpp", SOURCE)
    both_ways.write("a.h", "#define A 1\n")
    return both_ways


@needs_gxx
@pytest.mark.parametrize(
    "command",
    [
        ("-c", "a.cpp", "-o", "a.o"),
        ("-c", "a.cpp"),
        ("-S", "a.cpp", "-oa.s"),
        ("-c", "a.cpp", "-o", "a.o", "-MD"),
        ("-c", "a.cpp", "-o", "a.o", "-MMD", "-MF", "deps", "-MT", "target", "-MP"),
        ("-c", "a.cpp", "-o", "a.o", "-Wp,-MD,deps"),
        ("-c", "a.cpp", "-o", "a.o", "-g"),
        ("-shared", "-fPIC", "a.cpp", "-o", "a.so"),
        ("@response",),
    ],
    ids=" ".join,
)
def test_a_hit_leaves_what_the_compiler_leaves(project: Build, command: tuple[str, ...]) -> None:
    """The second run compiles nothing, and leaves the same files with the same modes."""
    project.write("response", "-c a.cpp -o 'a.o' -DNAME=\\\"x\\\"\n")

    assert project.check("g++", *command) == {"compiled": 1}
    assert project.check("g++", *command) == {"hit": 1}


@needs_gxx
def test_several_sources_make_several_outputs(project: Build) -> None:
    """`-c a.cpp b.cpp -MD` makes two objects and two dependency files."""
    project.write("b.cpp", "int g() { return 2; }\n")
    command = ("g++", "-c", "a.cpp", "b.cpp", "-MD")

    assert project.check(*command) == {"compiled": 1}
    assert project.check(*command) == {"hit": 1}


@needs_gxx
def test_a_link_is_kept(project: Build) -> None:
    """A shared object of two objects is found again; with another object it is another one."""
    project.write("b.cpp", "int g() { return 2; }\n")
    for name in ("a", "b"):
        project.run_plain("g++", "-fPIC", "-c", f"{name}.cpp", "-o", f"{name}.o")
    link = ("g++", "-shared", "a.o", "b.o", "-o", "lib.so")

    assert project.check(*link) == {"compiled": 1}
    assert project.check(*link) == {"hit": 1}

    project.write("b.cpp", "int g() { return 3; }\n")
    project.run_plain("g++", "-fPIC", "-c", "b.cpp", "-o", "b.o")

    assert project.check(*link) == {"compiled": 1}


@needs_gxx
def test_warnings_come_back(project: Build) -> None:
    """What the compiler printed is printed again, byte for byte."""
    project.write("a.cpp", "#warning look here\nint f() { int unused; return 0; }\n")
    command = ("g++", "-Wall", "-c", "a.cpp", "-o", "a.o", "-fdiagnostics-color=always")

    first = project.run(*command)
    second = project.run(*command)

    assert "look here" in first.err
    assert first.err == second.err
    assert project.counted() == {"compiled": 1, "hit": 1}


@needs_gxx
def test_an_error_is_the_compilers(project: Build) -> None:
    """A compile that fails has the compiler's exit code and texts, and is not kept."""
    project.write("a.cpp", "int f() { return nothing; }\n")

    assert project.check("g++", "-c", "a.cpp", "-o", "a.o") == {"failed": 1}
    assert project.check("g++", "-c", "a.cpp", "-o", "a.o") == {"failed": 1}


@needs_gxx
def test_an_output_of_another_name_is_found(project: Build) -> None:
    """The output's name is no part of a result that does not hold it."""
    project.run("g++", "-c", "a.cpp", "-o", "a.o")

    assert project.check("g++", "-c", "a.cpp", "-o", "other.o") == {"compiled": 1, "hit": 1}


@needs_gxx
def test_another_checkout_shares(project: Build) -> None:
    """Absolute directories are places: a copy of the project elsewhere has hits."""
    here = project.folder
    command = ("g++", "-c", f"{here}/a.cpp", "-I", f"{here}/inc", "-o", "a.o")
    project.run(*command)
    there = Build(here.parent / "elsewhere" / "deep", project.cache, forgets=project.forgets)
    there.write("a.cpp", SOURCE)
    there.write("a.h", "#define A 1\n")
    there.counted()
    command = tuple(part.replace(str(here), str(there.folder)) for part in command)

    assert there.check(*command) == {"hit": 1}


@needs_gxx
def test_folders_below_the_working_directory_share(project: Build) -> None:
    """A server that stands above all that it compiles finds a kernel in another folder again."""
    for name in ("one", "two"):
        project.write(f"{name}/a.cpp", SOURCE)
        project.write(f"{name}/a.h", "#define A 1\n")
        path = f"{project.folder}/{name}"
        counted = project.check("g++", "-c", f"{path}/a.cpp", "-o", f"{path}/a.o")

        assert counted == ({"compiled": 1} if name == "one" else {"hit": 1})


@needs_gxx
def test_modes_follow_the_umask(project: Build) -> None:
    """A hit under another umask has the mode that the compiler would give."""
    command = ("g++", "-shared", "-fPIC", "a.cpp", "-o", "a.so")
    project.run(*command)
    before = os.umask(0o077)
    try:
        project.check(*command)
    finally:
        os.umask(before)


@needs_gxx
def test_a_touched_source_is_the_same_source(project: Build) -> None:
    """Content decides, and not a time."""
    project.run("g++", "-c", "a.cpp", "-o", "a.o")
    project.counted()
    for name in ("a.cpp", "a.h"):
        os.utime(project.folder / name, (1e9, 1e9))

    assert project.check("g++", "-c", "a.cpp", "-o", "a.o") == {"hit": 1}


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["-cubin", "-ptx"])
def test_nvcc(both_ways: Build, kind: str) -> None:
    """Code for the device is found again, with a dependency file in each of nvcc's spellings."""
    both_ways.write("k.cu", '#include "k.h"\n__global__ void k(float* p) { p[K] = 1; }\n')
    both_ways.write("k.h", "#define K 1\n")
    command = (
        *(NVCC, kind, "-arch=sm_90", "k.cu", "-o", "k.out"),
        *("--generate-dependencies-with-compile", "--dependency-output", "k.d"),
    )

    assert both_ways.check(*command) == {"compiled": 1}
    assert both_ways.check(*command) == {"hit": 1}

    both_ways.write("k.h", "#define K 2\n")

    assert both_ways.check(*command) == {"compiled": 1}


@needs_nvcc
@pytest.mark.slow
def test_an_object_of_nvcc_belongs_to_its_place(both_ways: Build) -> None:
    """Its internal symbols are numbered by the source's path: a copy elsewhere is compiled."""
    text = "namespace { __device__ int g; }\n__global__ void k(int* p) { *p = g; }\n"
    both_ways.write("one/k.cu", text)
    both_ways.write("two/k.cu", text)
    one = (NVCC, "-dc", f"{both_ways.folder}/one/k.cu", "-o", "k.o")
    two = (NVCC, "-dc", f"{both_ways.folder}/two/k.cu", "-o", "k.o")

    assert both_ways.run(*one).code == 0
    assert both_ways.run(*two).code == 0
    assert both_ways.counted() == {"compiled": 2}
    assert both_ways.run(*one).code == 0
    assert both_ways.counted() == {"hit": 1}


def test_the_compilers_of_these_tests_are_told(build: Build) -> None:
    """Where a compiler is missing its tests skip; with none of both this room tests nothing."""
    assert GXX or NVCC
