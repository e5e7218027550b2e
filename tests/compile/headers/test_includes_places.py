"""Which file a header is counts as much as what it holds: no change of a header keeps the key.

Each test changes what a compiler would read, and expects another closure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ajit._compile.headers import closure as includes
from ajit._compile.headers.closure import ABSENT, HeaderIndex
from ajit._core.spec import Spec
from ajit.errors import CompileError, IncludeError, SpecError
from tests.compile.support import job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, str], None]:
    """Writes a header below the test's directory."""

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


@pytest.fixture
def parts(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The closure's headers of a source; directories are below the test's."""

    def closure(source: str, dirs: tuple[str, ...] = (), **options: object) -> dict[str, str]:
        include_dirs = [tmp_path / name for name in dirs]
        spec = Spec(source + "\nint k;", "k", include_dirs=include_dirs, **options)
        return dict(HeaderIndex().closure(spec).parts)

    return closure


def test_the_next_header_counts(put, parts):
    """``#include_next`` skips the first match, which is the includer itself."""
    put("d1/a.h", "#include_next <a.h>\n")
    put("d2/a.h", '#include "b.h"\n')
    put("d2/b.h", "int one;\n")
    before = parts("#include <a.h>", ("d1", "d2"))
    put("d2/b.h", "int two;\n")
    after = parts("#include <a.h>", ("d1", "d2"))

    assert list(before) == ["0/a.h", "1/a.h", "1/b.h"]
    assert before != after


def test_headers_of_two_directories_do_not_change_places(put, parts):
    """Swapping two headers that have one name is a change."""
    source, dirs = "#include <x.h>\n#include <y.h>", ("B", "A")
    put("A/x.h", '#include "y.h"\n')
    put("A/y.h", "int a;\n")
    put("B/y.h", "int b;\n")
    before = parts(source, dirs)
    put("A/y.h", "int b;\n")
    put("B/y.h", "int a;\n")
    after = parts(source, dirs)

    assert list(before) == ["0/y.h", "1/x.h", "1/y.h"]
    assert (before["0/y.h"], before["1/y.h"]) == (after["1/y.h"], after["0/y.h"])
    assert before != after


def test_whichever_directory_the_compiler_prefers_counts(put, parts, tmp_path):
    """Compilers search directories of options first, or last: ``-I`` and ``-idirafter``."""
    put("given/y.h", "int given;\n")
    put("option/y.h", "int one;\n")
    options = [f"-I{tmp_path}/option"]
    before = parts("#include <y.h>", ("given",), options=options)
    put("option/y.h", "int two;\n")
    after = parts("#include <y.h>", ("given",), options=options)

    assert list(before) == ["0/y.h", "1/y.h"]
    assert before != after


def test_absolute_includes_of_one_name_do_not_change_places(put, parts, tmp_path):
    """They are told apart without naming the path."""
    source = f'#include "{tmp_path}/p/x.h"\n#include "{tmp_path}/q/x.h"'
    put("p/x.h", '#include "y.h"\n')
    put("p/y.h", "int y;\n")
    put("q/x.h", "int q;\n")
    before = parts(source)
    put("q/x.h", '#include "y.h"\n')
    put("p/x.h", "int q;\n")
    after = parts(source)

    assert len(before) == 3
    assert before != after
    assert str(tmp_path) not in repr(before)


def test_a_link_on_the_way_up_leads_to_another_file(put, parts, tmp_path):
    """``sub/../x.h`` is not ``x.h`` where ``sub`` is a link; elsewhere the two are one."""
    put("elsewhere/x.h", "int one;\n")
    put("elsewhere/deep/z.h", "")
    put("d/x.h", "int two;\n")
    put("d/plain/z.h", "")
    (tmp_path / "d" / "sub").symlink_to(tmp_path / "elsewhere" / "deep")
    source = '#include "x.h"\n#include "sub/../x.h"\n#include "plain/../x.h"'

    assert list(parts(source, ("d",))) == ["0/sub/../x.h", "0/x.h"]


def test_a_header_in_the_workers_directory_is_in_the_closure(put, parts, tmp_path, monkeypatch):
    """A source in memory counts as lying there, and so does a virtual header."""
    monkeypatch.setattr(includes, "WORKER_DIR", str(tmp_path))
    put("x.h", "int x;\n")
    put("lib/y.h", "int y;\n")
    headers = {"lib/v.h": '#include "y.h"'}
    found = parts('#include "x.h"\n#include "lib/v.h"', headers=headers)

    assert [label for label, digest in found.items() if digest != ABSENT] == [
        "worker/lib/y.h",
        "worker/x.h",
    ]


@pytest.mark.parametrize(
    "options",
    [
        ["-imacros", "{}/d/z.h"],
        ["-imacros", "z.h", "-I{}/d"],
        ["-include", "z.h", "-idirafter", "{}/d"],
        ["-include{}/d/other.h,{}/d/z.h"],
        ["-I{}/nowhere,{}/d", "--pre-include=z.h"],
        ["-Xcompiler", "-I{}/d", "-Xcompiler", "-include,z.h"],
        ["-Xcompiler", "-include", "-Xcompiler", "{}/d/z.h"],
        ["-Wp,-imacros,{}/d/z.h"],
        ["--include-directory={}/d", "--include", "z.h"],
        ["-isystem-after", "{}/d", "-include", "z.h"],
    ],
)
def test_headers_that_options_name_count(put, parts, tmp_path, options):
    """In every spelling, also those that nvcc passes on or takes as a list."""
    options = [option.replace("{}", str(tmp_path)) for option in options]
    put("d/z.h", "int one;\n")
    before = parts("", options=options)
    put("d/z.h", "int two;\n")
    after = parts("", options=options)

    assert before != after


@pytest.mark.parametrize(
    "options",
    [
        ["@flags"],
        ["@/opt/flags"],
        ["--options-file", "flags"],
        ["--options-file=flags"],
        ["-optf", "flags"],
        ["-ccbin", "g++-12"],
        ["-fprofile-use=/opt/profile"],
        ["/opt/more.o"],
        ["-specs=mine"],
        ["--include-with-prefix=/opt"],
        ["-Xcompiler", "@flags"],
        ["-Xcompiler=-O2,-specs=mine"],
        ["-Xlinker", "/opt/more.o"],
    ],
)
def test_an_option_that_names_another_file_needs_an_extra_digest(parts, options):
    """It is refused with its text, unless the spec vouches for the file."""
    with pytest.raises(SpecError) as caught:
        parts("", options=options)

    assert not isinstance(caught.value, IncludeError)
    assert options[-1].rpartition(",")[2].rpartition("=")[2] in str(caught.value)
    assert "extra_digest" in str(caught.value)
    assert parts("", options=options, extra_digest="1") == {}


def test_text_with_a_slash_is_no_file(parts):
    """Macros and prefix maps are in the key as they are."""
    options = [
        "-DROOT=/opt",
        "-D",
        "HEADER=<a/b.h>",
        "-ffile-prefix-map=/opt=.",
        "-O3",
        "-lineinfo",
    ]

    assert parts("", options=[*options, "-Xptxas", "-v", "-Xcompiler", "-Wall,-DX=/opt"]) == {}


def test_nvrtc_looks_in_no_directory_of_the_machine(put, tmp_path, bench):
    """A source in memory has no header beside it: only root's directory would be left for it."""
    put("x.h", "#define BODY x[0] = 1;\n")
    source = f'#include "{str(tmp_path).lstrip("/")}/x.h"\n'
    kernel = 'extern "C" __global__ void plain(float* x) { BODY }'

    with pytest.raises(CompileError, match="cannot open source file"):
        bench.compile(job(source + kernel))
