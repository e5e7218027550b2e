"""Odd projects: text from pipes, links, names that are written otherwise, streams that are closed.

Each was a wrong hit, or an end of a launcher that its compiler would not have had.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.launcher.support import LAUNCH, SECONDS, Build, needs_gxx

C = ("gcc", "-c", "a.c", "-o", "a.o")
VALUE = "int value(void) { return V; }\n"


def _shell(build: Build, script: str) -> bytes:
    """Run a script of bash in which $CC is the launcher, and return what it made."""
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=build.folder,
        env=build.env | {"CC": " ".join((*LAUNCH, "gcc")), "LANG": "C"},
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return (build.folder / "a.o").read_bytes()


@needs_gxx
@pytest.mark.parametrize(
    "script",
    [
        "echo 'int x = {};' | $CC -c -x c /dev/stdin -o a.o",
        "echo 'int x = {};' > text; $CC -c -x c /dev/stdin -o a.o < text",
        "$CC -c -x c <(echo 'int x = {};') -o a.o",
        "echo 'int x = V;' > a.c; $CC -c -include <(echo '#define V {}') a.c -o a.o",
    ],
)
def test_what_is_open_already_is_not_known_again(both_ways: Build, script: str) -> None:
    """A text that comes through a descriptor is another one each time."""
    made = [_shell(both_ways, script.format(value)) for value in (1, 2, 1)]

    assert made[0] == made[2] != made[1]
    assert "compiled" not in both_ways.counted()


@needs_gxx
@pytest.mark.parametrize("by", ["an option", "a variable"])
def test_a_second_name_of_a_directory(both_ways: Build, by: str) -> None:
    """A compiler asks for nothing in a directory that it has seen by another name."""
    both_ways.write("a.c", f"#include <v.h>\n{VALUE}")
    for name, text in (
        ("one/w.h", ""),
        ("other/v.h", "#define V 2\n"),
        ("last/v.h", "#define V 1"),
    ):
        both_ways.write(name, text)
    link = both_ways.folder / "two"
    link.symlink_to("one")
    dirs = ("one", "two", "last")
    options = tuple(f"-I{name}" for name in dirs) if by == "an option" else ()
    env = {"CPATH": ":".join(dirs)} if by == "a variable" else {}
    both_ways.check(*C, *options, **env)
    assert both_ways.check(*C, *options, **env) == {"hit": 1}

    link.unlink()
    link.symlink_to("other")

    assert both_ways.check(*C, *options, **env) == {"compiled": 1}


@needs_gxx
@pytest.mark.parametrize("names", [("one x", "two x"), ("one$x", "two$x"), ("one#", "two#")])
def test_a_dependency_file_writes_names_otherwise(both_ways: Build, names: tuple[str, str]) -> None:
    """Make's syntax escapes these, so that the directory's name is not in the file."""
    whole = both_ways.folder
    for name in names:
        both_ways.folder = whole / name
        both_ways.write("a.c", f"#include <v.h>\n{VALUE}")
        both_ways.write("inc/v.h", "#define V 1\n")
        both_ways.check(*C, "-MD", f"-I{both_ways.folder}/inc")


@needs_gxx
def test_a_dependency_file_names_what_a_link_leads_to(both_ways: Build) -> None:
    """The compiler lists a system header by the shorter of its names."""
    whole = both_ways.folder
    for name in ("one", "two"):
        target = whole.parent / name[0]
        target.mkdir()
        (target / "v.h").write_text("#define V 1\n")
        both_ways.folder = whole / name
        both_ways.write("a.c", f"#include <v.h>\n{VALUE}")
        (both_ways.folder / "include").mkdir()
        (both_ways.folder / "include/v.h").symlink_to(target / "v.h")
        both_ways.check(*C, "-MD", "-isystem", f"{both_ways.folder}/include")


@needs_gxx
def test_a_header_behind_a_link(both_ways: Build) -> None:
    """A system header is opened by the shorter of its names: the other one counts as well."""
    both_ways.write("a.c", f"#include <v.h>\n{VALUE}")
    for name, text in (("o/v.h", "#define V 1\n"), ("t/v.h", "#define V 2\n")):
        both_ways.write(name, text)
    link = both_ways.write("a/name/of/some/length/w.h", "").with_name("v.h")
    link.symlink_to(both_ways.folder / "o/v.h")
    command = (*C, "-isystem", str(link.parent))
    both_ways.check(*command)
    assert both_ways.check(*command) == {"hit": 1}

    link.unlink()
    link.symlink_to(both_ways.folder / "t/v.h")

    assert both_ways.check(*command) == {"compiled": 1}


@needs_gxx
def test_an_assembler_text_writes_names_otherwise(both_ways: Build) -> None:
    """What is not ASCII is a number there."""
    for name in ("\u00fcone", "\u00e4one"):
        both_ways.write(f"{name}/a.c", "#include <assert.h>\nvoid f(int x) { assert(x); }\n")
        both_ways.check("gcc", "-S", f"{both_ways.folder}/{name}/a.c", "-o", "a.s")


@needs_gxx
def test_an_option_asks_for_the_name(both_ways: Build) -> None:
    """Of ``sizeof(__FILE__)`` no path is in the result."""
    for name in ("one", "two-longer"):
        both_ways.write(f"{name}/a.c", "int n = N;\n")
        path = f"{both_ways.folder}/{name}/a.c"
        both_ways.check("gcc", "-c", path, "-o", "a.o", "-DN=sizeof(__FILE__)")


@needs_gxx
def test_a_script_reads_a_variable(both_ways: Build) -> None:
    """What a compiler that is a script names of the environment matters."""
    both_ways.write("a.c", VALUE)
    script = both_ways.write("gcc", '#!/bin/sh\nPATH=${PATH#*:} exec gcc $MY_FLAGS "$@"\n')
    script.chmod(0o755)
    path = f"{both_ways.folder}:{both_ways.env['PATH']}"
    command = (str(script), "-c", "a.c", "-o", "a.o")
    both_ways.check(*command, PATH=path, MY_FLAGS="-DV=1")
    assert both_ways.check(*command, PATH=path, MY_FLAGS="-DV=1") == {"hit": 1}

    both_ways.check(*command, PATH=path, MY_FLAGS="-DV=2")


@needs_gxx
def test_a_hit_is_not_written_where_the_compiler_would_not(both_ways: Build) -> None:
    """What was a file is a link by now, or its directory is gone."""
    both_ways.write("a.c", VALUE)
    command = ("gcc", "-S", "a.c", "-DV=1", "-o", "out/a.s")
    out = both_ways.folder / "out"
    out.mkdir()
    both_ways.check(*command)
    assert both_ways.check(*command) == {"hit": 1}

    both_ways.write("real.s", "")
    (out / "a.s").symlink_to("../real.s")
    assert both_ways.run(*command).code == 0
    assert (out / "a.s").is_symlink()
    assert (both_ways.folder / "real.s").stat().st_size
    (out / "a.s").unlink()
    out.rmdir()
    assert both_ways.run(*command) == both_ways.run_plain(*command)


@needs_gxx
def test_a_hit_has_a_long_name(both_ways: Build) -> None:
    """A temporary name must not be longer than any other."""
    both_ways.write("a.c", VALUE)
    command = ("gcc", "-c", "a.c", "-DV=1", "-o", f"{'o' * 250}.o")
    both_ways.check(*command)

    assert both_ways.check(*command) == {"hit": 1}


@needs_gxx
def test_a_name_that_is_no_text(build: Build) -> None:
    """An argument may be any bytes."""
    build.write("a.c", "const char *v = V;\n")

    counted = build.check(*C, os.fsdecode(b'-DV="\xff"'))

    assert counted == {"passed through: a name is no text": 1}


@needs_gxx
@pytest.mark.parametrize("closing", ["1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams(both_ways: Build, closing: str) -> None:
    """A compile with a warning succeeds although it cannot be read."""
    both_ways.write("a.c", f"#warning one\n{VALUE}")
    for counted in ("compiled", "hit", "hit"):
        if both_ways.forgets:
            both_ways.forget()
        _shell(both_ways, f"$CC -c a.c -DV=1 -o a.o {closing}")
        assert both_ways.counted() == {counted: 1}


@needs_gxx
def test_a_warning_without_a_reader(both_ways: Build, tmp_path: Path) -> None:
    """The reader of a pipe is gone."""
    both_ways.write("a.c", f"#warning one\n{VALUE}")
    for counted in ("compiled", "hit"):
        reader, writer = os.pipe()
        os.close(reader)
        ran = subprocess.run(
            [*LAUNCH, *C, "-DV=1"],
            cwd=both_ways.folder,
            env=both_ways.env,
            stderr=writer,
            timeout=SECONDS,
            check=False,
        )
        os.close(writer)
        assert (ran.returncode, both_ways.counted()) == (0, {counted: 1})


@needs_gxx
def test_a_shell_seeks_a_program(both_ways: Build) -> None:
    """A shell goes through PATH itself, and starts what it finds by its path."""
    both_ways.write("a.c", VALUE)
    outside = both_ways.folder.parent

    def program(name: str, text: str) -> str:
        path = outside / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\n{text} "$@"\n')
        path.chmod(0o755)
        return str(path)

    (outside / "first").mkdir()
    real = both_ways.env["PATH"]
    program("second/inner", "exec gcc -DV=1")
    path = f"{outside}/first:{outside}/second:{real}"
    command = (program("outer/gcc", "inner"), "-c", "a.c", "-o", "a.o")
    both_ways.check(*command, PATH=path)
    assert both_ways.check(*command, PATH=path) == {"hit": 1}

    program("other/inner", "exec gcc -DV=2")
    both_ways.check(*command, PATH=f"{outside}/other:{path}")
    program("first/inner", "exec gcc -DV=3")
    assert both_ways.check(*command, PATH=path) == {"compiled": 1}


@needs_gxx
def test_what_was_there_before_is_no_result(build: Build) -> None:
    """A wrapper may read the source and leave the output as it is."""
    build.write("a.c", VALUE)
    build.write("a.o", "of yesterday")
    script = build.write("gcc", "#!/bin/sh\nexec cat a.c\n")
    script.chmod(0o755)

    assert build.run(str(script), "-c", "a.c", "-o", "a.o").code == 0
    assert build.counted() == {"not kept: writes elsewhere": 1}
