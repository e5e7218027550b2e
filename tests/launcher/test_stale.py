"""No wrong hit: whatever changes a compile's result is another compile.

Each case compiles, changes something, and compares the launcher's result with the compiler's own.
The list is that of the hard cases of compiler caches, and then some.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.launcher.support import NVCC, Build, needs_gxx, needs_nvcc

GCC = shutil.which("gcc")
C = ("gcc", "-c", "a.c", "-o", "a.o")
VALUE = "int value(void) { return V; }\n"


@dataclass(frozen=True)
class Case:
    """Files, a command, and what is changed.

    Attributes:
        name: What it is about.
        files: Name to text.
        change: Changes the project.
        before: The command before the change.
        after: The command after it; None: the same.
        env: Variables before.
        env_after: Variables after; None: the same.
    """

    name: str
    files: dict[str, str]
    change: Callable[[Build], object] = lambda _: None
    before: tuple[str, ...] = C
    after: tuple[str, ...] | None = None
    env: dict[str, str] = field(default_factory=dict)
    env_after: dict[str, str] | None = None


def _write(name: str, text: str) -> Callable[[Build], object]:
    return lambda build: build.write(name, text)


def _same_size_and_time(build: Build) -> None:
    """Another text of the same length, with the times that the file had."""
    path = build.folder / "v.h"
    times = path.stat()
    path.write_text("#define V 2\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _swap(build: Build) -> None:
    one, two = build.folder / "one", build.folder / "two"
    one.rename(build.folder / "third")
    two.rename(one)
    (build.folder / "third").rename(two)


V1, V2 = "#define V 1\n", "#define V 2\n"
INCLUDES = '#include "v.h"\n' + VALUE
ANGLED = "#include <v.h>\n" + VALUE

CASES = [
    Case("source edited", {"a.c": VALUE.replace("V", "1")}, _write("a.c", VALUE.replace("V", "2"))),
    Case("header edited", {"a.c": INCLUDES, "v.h": V1}, _write("v.h", V2)),
    Case("header of same size and time", {"a.c": INCLUDES, "v.h": V1}, _same_size_and_time),
    Case(
        "header of a header edited",
        {"a.c": '#include "w.h"\n' + VALUE, "w.h": '#include "v.h"\n', "v.h": V1},
        _write("v.h", V2),
    ),
    Case(
        "header appears beside the source",
        {"a.c": INCLUDES, "inc/v.h": V1},
        _write("v.h", V2),
        before=(*C, "-Iinc"),
    ),
    Case(
        "header appears earlier in the path",
        {"a.c": ANGLED, "one/other.h": "", "two/v.h": V1},
        _write("one/v.h", V2),
        before=(*C, "-Ione", "-Itwo"),
    ),
    Case(
        "directory appears earlier in the path",
        {"a.c": ANGLED, "two/v.h": V1},
        _write("one/v.h", V2),
        before=(*C, "-Ione", "-Itwo"),
    ),
    Case(
        "__has_include finds something",
        {"a.c": "#if __has_include(<v.h>)\n#define V 2\n#else\n#define V 1\n#endif\n" + VALUE},
        _write("inc/v.h", ""),
        before=(*C, "-Iinc"),
    ),
    Case(
        "order of directories",
        {"a.c": ANGLED, "one/v.h": V1, "two/v.h": V2},
        before=(*C, "-Ione", "-Itwo"),
        after=(*C, "-Itwo", "-Ione"),
    ),
    Case(
        "directories that change places",
        {"a.c": ANGLED, "one/v.h": V1, "two/v.h": V2},
        _swap,
        before=(*C, "-Ione", "-Itwo"),
    ),
    Case(
        "forced include edited",
        {"a.c": VALUE, "v.h": V1},
        _write("v.h", V2),
        before=(*C, "-include", "v.h"),
    ),
    Case("macro", {"a.c": VALUE}, before=(*C, "-DV=1"), after=(*C, "-DV=2")),
    Case(
        "order of macros",
        {"a.c": VALUE},
        before=(*C, "-DV=1", "-UV", "-DV=3"),
        after=(*C, "-UV", "-DV=1", "-DV=3"),
    ),
    Case(
        "optimisation",
        {"a.c": "int f(int x) { return x * 3 / 7; }\n"},
        before=(*C, "-O0"),
        after=(*C, "-O2"),
    ),
    Case(
        "CPATH",
        {"a.c": ANGLED, "one/v.h": V1, "two/v.h": V2},
        env={"CPATH": "one"},
        env_after={"CPATH": "two"},
    ),
    Case(
        "C_INCLUDE_PATH",
        {"a.c": ANGLED, "one/v.h": V1, "two/v.h": V2},
        env={"C_INCLUDE_PATH": "one"},
        env_after={"C_INCLUDE_PATH": "two"},
    ),
    Case(
        "header of CPATH edited",
        {"a.c": ANGLED, "one/v.h": V1},
        _write("one/v.h", V2),
        env={"CPATH": "one"},
    ),
    Case(
        "response file edited",
        {"a.c": VALUE, "r": "-DV=1"},
        _write("r", "-DV=2"),
        before=(*C, "@r"),
    ),
    Case(
        "response file in a response file",
        {"a.c": VALUE, "r": "@s", "s": "-DV=1"},
        _write("s", "-DV=2"),
        before=(*C, "@r"),
    ),
    Case(
        "SOURCE_DATE_EPOCH",
        {"a.c": "const char *value = __DATE__;\n"},
        env={"SOURCE_DATE_EPOCH": "0"},
        env_after={"SOURCE_DATE_EPOCH": "100000000"},
    ),
    Case(
        "assembler includes a file",
        {"a.c": '__asm__(".section .rodata\\n.incbin \\"data\\"\\n.text\\n");\n', "data": "one"},
        _write("data", "two"),
    ),
    Case(
        "specs file edited",
        {"a.c": VALUE, "specs": "*cc1:\n+ -DV=1\n\n"},
        _write("specs", "*cc1:\n+ -DV=2\n\n"),
        before=(*C, "-specs=specs"),
    ),
    Case(
        "dependencies of another target",
        {"a.c": VALUE},
        before=(*C, "-DV=1", "-MD", "-MT", "one"),
        after=(*C, "-DV=1", "-MD", "-MT", "two"),
    ),
    Case(
        "dependencies name the output",
        {"a.c": VALUE},
        before=(*C, "-DV=1", "-MD"),
        after=("gcc", "-c", "a.c", "-o", "b.o", "-DV=1", "-MD"),
    ),
    Case(
        "header of a warning",
        {"a.c": INCLUDES, "v.h": "#define V 1\n#warning one\n"},
        _write("v.h", "#define V 1\n#warning two\n"),
    ),
]


@needs_gxx
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_change_is_seen(both_ways: Build, case: Case) -> None:
    """After the change the launcher leaves what the compiler leaves."""
    for name, text in case.files.items():
        both_ways.write(name, text)
    both_ways.check(*case.before, **case.env)
    assert both_ways.check(*case.before, **case.env) == {"hit": 1}, "it is kept at all"
    case.change(both_ways)

    env = case.env if case.env_after is None else case.env_after
    counted = both_ways.check(*(case.after or case.before), **env)

    assert counted == {"compiled": 1}


@needs_gxx
def test_the_compiler_itself_changes(both_ways: Build) -> None:
    """A wrapper that is edited is another compiler."""
    both_ways.write("a.c", VALUE)
    wrapper = both_ways.write("gcc", '#!/bin/sh\nexec /usr/bin/env gcc -DV=1 "$@"\n')
    wrapper.chmod(0o755)
    command = (str(wrapper), "-c", "a.c", "-o", "a.o")
    both_ways.check(*command)
    assert both_ways.check(*command) == {"hit": 1}

    wrapper.write_text('#!/bin/sh\nexec /usr/bin/env gcc -DV=2 "$@"\n')

    assert both_ways.check(*command) == {"compiled": 1}


@needs_gxx
def test_a_program_appears_earlier_on_path(both_ways: Build) -> None:
    """The compiler starts ``as`` by its name: another one that comes first is seen."""
    both_ways.write("a.c", VALUE)
    folder = both_ways.folder / "bin"
    folder.mkdir()
    command = ("gcc", "-c", "a.c", "-o", "a.o", "-DV=1")
    path = f"{folder}:{both_ways.env['PATH']}"
    both_ways.check(*command, PATH=path)
    script = both_ways.write("bin/as", '#!/bin/sh\nexec /usr/bin/as --defsym NEW=1 "$@"\n')
    script.chmod(0o755)

    assert "hit" not in both_ways.check(*command, PATH=path)


@needs_gxx
@pytest.mark.parametrize("options", [("-g",), ("-g", "-gz")], ids=" ".join)
def test_debug_information_names_its_directory(both_ways: Build, options: tuple[str, ...]) -> None:
    """The same files elsewhere are compiled again, since the result says where it was made."""
    both_ways.write("one/a.c", VALUE)
    both_ways.write("two/a.c", VALUE)
    folder = both_ways.folder
    for name in ("one", "two"):
        both_ways.folder = folder / name
        both_ways.check("gcc", *options, "-DV=1", "-c", "a.c", "-o", "a.o", PWD=str(folder / name))
        both_ways.check("gcc", *options, "-DV=1", "-c", "a.c", "-o", "a.o", PWD=str(folder / name))


@needs_gxx
def test_a_path_in_the_result(both_ways: Build) -> None:
    """``__FILE__`` of an absolute path: the same source elsewhere has another result."""
    for name in ("one", "two-longer"):
        both_ways.write(f"{name}/a.c", '#include "v.h"\nconst char *f = __FILE__ V;\n')
        both_ways.write(f"{name}/v.h", "#define V __FILE__\n")
        path = f"{both_ways.folder}/{name}"

        counted = both_ways.check("gcc", "-c", f"{path}/a.c", f"-I{path}", "-o", "a.o")

        assert counted == {"compiled": 1}


@needs_gxx
@pytest.mark.parametrize(
    ("definer", "use"),
    [
        ("#define LENGTH sizeof(__FILE__)\n", "LENGTH"),
        ("#define OWN sizeof(__builtin_FILE())\n#define LENGTH OWN\n", "LENGTH"),
        (
            """constexpr int sum(const char* name = __builtin_FILE()) {
              return *name ? *name + sum(name + 1) : 0; }\n""",
            "sum()",
        ),
    ],
    ids=["a macro", "a macro of a macro", "a function"],
)
def test_the_length_of_a_header_s_name(both_ways: Build, definer: str, use: str) -> None:
    """By what another directory defines: of the name nothing else is in the result."""
    both_ways.write("../common/names.h", definer)
    above = both_ways.folder.parent
    for name in ("one", "two-longer"):
        text = f"#include <names.h>\nint value() {{ return {use}; }}\n"
        both_ways.write(f"../{name}/v.h", text)
        both_ways.write("a.cpp", "#include <v.h>\n")
        command = ("g++", "-c", "a.cpp", "-o", "a.o", f"-I{above}/common", f"-I{above}/{name}")

        assert both_ways.check(*command) == {"compiled": 1}
        assert both_ways.check(*command) == {"hit": 1}


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ptx", "fatbin", "optix-ir"])
def test_a_name_that_is_not_there_as_text(build: Build, kind: str) -> None:
    """As numbers, or compressed: each directory has its own code for the device."""
    found = []
    build.write("k.cu", "#include <v.h>\n__global__ void k(int* p) { f(*p); }\n")
    for name in ("one", "two-longer"):
        text = "#include <assert.h>\n__device__ void f(int x) { assert(x); }\n"
        header = build.write(f"../{name}/v.h", text)
        where = f"-I{header.parent.resolve()}"
        assert build.run(NVCC, f"-{kind}", "-arch=sm_90", where, "k.cu", "-o", "k").code == 0
        found.append((build.folder / "k").read_bytes())

    assert found[0] != found[1]
    assert build.counted() == {"compiled": 2}


@needs_gxx
def test_a_directory_in_a_directory_is_not_mixed_up(both_ways: Build) -> None:
    """A file that is in two places counts for the one by which it was found."""
    text = '#include "inc/v.h"\n' + VALUE
    for name, inner, v in (("one", "one/inc", V1), ("two", "other", V2)):
        both_ways.write(f"{name}/a.c", text)
        both_ways.write(f"{name}/inc/v.h", v)
        both_ways.write(f"{inner}/v.h", v if name == "one" else V1)
        here = both_ways.folder
        command = ("gcc", "-c", f"{here}/{name}/a.c", f"-I{here}/{inner}", "-o", "a.o")

        assert both_ways.check(*command) == {"compiled": 1}


@needs_gxx
@pytest.mark.parametrize("by", ["a variable", "an option", "a text"])
def test_a_directory_that_is_spelt_out_is_no_other(both_ways: Build, by: str) -> None:
    """A path that stays the same leads to the first checkout, from the second one as well."""
    first, second = both_ways.folder / "first", both_ways.folder / "second"
    include = f'"{first}/inc/v.h"' if by == "a text" else "<v.h>"
    for folder, text in ((first, V1), (second, V1)):
        both_ways.write(f"{folder.name}/a.c", f"#include {include}\n{VALUE}")
        both_ways.write(f"{folder.name}/inc/v.h", text)
    env = {"CPATH": f"{first}/inc"} if by == "a variable" else {}
    options = (f"-Wp,-I{first}/inc",) if by == "an option" else ()
    command = ("gcc", "-c", "a.c", "-o", "a.o", *options)
    whole = both_ways.folder

    both_ways.folder = first
    both_ways.check(*command, **env)
    (first / "inc/v.h").write_text(V2)
    both_ways.folder = second

    assert both_ways.check(*command, **env) == {"compiled": 1}
    assert whole.exists()


@needs_gxx
def test_a_path_with_two_names_is_not_kept(both_ways: Build) -> None:
    """What is found by a link into a place cannot be told from what is found in it."""
    both_ways.write("a.c", VALUE)
    both_ways.write("inc/v.h", V1)
    outside = both_ways.folder.parent / "outside"
    outside.symlink_to(both_ways.folder / "inc")

    counted = both_ways.check("gcc", "-c", "a.c", "-o", "a.o", "-include", f"{outside}/v.h")

    assert counted == {"not kept: a path with two names": 1}


@needs_nvcc
@pytest.mark.slow
def test_directories_in_one_option_are_two(both_ways: Build) -> None:
    """For nvcc ``-I /a,/b`` are two directories, which are no places."""
    for name, v in (("one", V1), ("two", V2)):
        both_ways.write(f"{name}/v.h", v)
    both_ways.write("empty/w.h", "")
    both_ways.write("k.cu", "#include <v.h>\n__global__ void k(int* p) { *p = V; }\n")
    for name in ("one", "two"):
        dirs = f"{both_ways.folder}/empty,{both_ways.folder}/{name}"

        counted = both_ways.check(NVCC, "-ptx", "-arch=sm_90", "-I", dirs, "k.cu", "-o", "k.ptx")

        assert counted == {"compiled": 1}


@needs_gxx
def test_what_is_made_of_its_own_output_is_not_kept(build: Build) -> None:
    """What a compiler gives that reads what was there, depends on what was there."""
    build.write("a.c", VALUE)
    wrapper = build.write(
        "bin/gcc", f'#!/bin/sh\n[ -f a.o ] && cat a.o > /dev/null\nexec {GCC} "$@"\n'
    )
    wrapper.chmod(0o755)
    command = (str(wrapper), "-c", "a.c", "-o", "a.o", "-DV=1")

    assert build.run(*command).code == 0
    assert build.counted() == {"compiled": 1}
    build.forget()
    shutil.rmtree(build.cache / "entries")
    assert build.run(*command).code == 0
    assert build.counted() == {"not kept: adds to its output": 1}


@needs_gxx
def test_a_logical_directory_is_in_debug_information(both_ways: Build) -> None:
    """The compiler writes $PWD where that leads to the working directory."""
    both_ways.write("a.c", VALUE)
    link = both_ways.folder.parent / "link"
    link.symlink_to(both_ways.folder)
    command = ("gcc", "-g", "-DV=1", "-c", "a.c", "-o", "a.o")

    both_ways.check(*command)
    counted = both_ways.check(*command, PWD=str(link))

    assert counted == {"compiled": 1}


@needs_gxx
@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("const char *d = __DATE__;\n", (), "not kept: date or time"),
        ("int f(void) { return 0; } /* __TIMESTAMP__ */\n", (), "not kept: date or time"),
        ("int f(void) { return 0; }\n", ("-fprofile-arcs",), "passed through: profile or coverage"),
        ("int f(void) { return 0; }\n", ("--coverage",), "passed through: profile or coverage"),
        ("int f(void) { return 0; }\n", ("-save-temps",), "passed through: writes more files"),
        ("int f(void) { return 0; }\n", ("-gsplit-dwarf",), "passed through: writes more files"),
        # Unknown to the launcher on purpose: the record shows the file.
        (
            "int f(void) { return 0; }\n",
            ("-O2", "-fopt-info-all=report"),
            "not kept: writes more files",
        ),
        ("int f(void) { return 0; }\n", ("-E",), "passed through: not a compile"),
        ("int f(void) { return 0; }\n", ("-MM",), "passed through: not a compile"),
        (
            "int f(void) { return 0; }\n",
            ("-x", "c-header"),
            "passed through: modules or precompiled header",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_kept_is_counted(
    build: Build, text: str, options: tuple[str, ...], reason: str
) -> None:
    """It is compiled each time, leaves what the compiler leaves, and the reason is counted."""
    build.write("a.c", text)
    # Some of these results differ from one compile to the next, so their bytes are not compared.
    expected = build.run_plain(*C, *options)
    for name in expected.files:
        (build.folder / name).unlink()

    for _ in range(2):
        actual = build.run(*C, *options)
        assert build.counted() == {reason: 1}
        assert (expected.code, expected.files.keys()) == (actual.code, actual.files.keys())
        for name in actual.files:
            (build.folder / name).unlink()


def test_another_program_is_passed_through(build: Build) -> None:
    """A program that is no compiler runs as it was called, with its exit code."""
    build.write("out", "")
    result = build.run("sh", "-c", "echo $0; exit 3", "name")

    assert (result.code, result.out) == (3, "name\n")
