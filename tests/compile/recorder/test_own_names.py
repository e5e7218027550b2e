"""When a result may depend on the name of its source although it does not hold it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ajit._compile.recorder.digests import FileStamp
from ajit._compile.recorder.own_names import asked_names
from ajit._compile.recorder.places import Places
from ajit._core.job import Seen, SeenRead

if TYPE_CHECKING:
    from pathlib import Path

CHECK = '#define CHECK(x) if (!(x)) printf("%s", __FILE__)\n'


def bound(folder: Path, files: dict[str, str], *, option: str = "") -> set[str]:
    """The places that count for files by place and name; the source is ``i0/k.cu``."""
    reads = []
    for name, text in files.items():
        place, rest = ("/", f"{folder}{name[1:]}") if name[0] == "/" else name.split("/")
        path = folder / name.lstrip("/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        stamp = tuple(FileStamp.of(str(path)) or ())
        reads.append(SeenRead(place, rest, "file", stamp, time.time_ns() + 10**10))
    dirs = [(place, f"{folder}/{place}/") for place in ("i0", "i1", "i2")]
    path = f"{folder}/i0/k.cu"
    return asked_names(Seen(tuple(reads)), Places(dirs, path), [option.encode()], [path])


def named(folder: Path, source: str, header: str, *, option: str = "") -> set[str]:
    """The places that count for a source which includes a header of another directory."""
    return bound(folder, {"i0/k.cu": source, "i1/k.h": header}, option=option)


def test_a_header_that_does_not_ask_binds_nothing(tmp_path: Path) -> None:
    """Two directories share."""
    assert named(tmp_path, "CHECK(1);", "#define CHECK(x)\n") == set()


@pytest.mark.parametrize(
    "source",
    [
        "kernel<1>();",
        "using namespace deep; auto f = &kernel<1, Major::K>;",
        "// no macro of theirs",
    ],
)
def test_a_source_that_uses_no_such_macro_may_have_any_name(tmp_path: Path, source: str) -> None:
    """What the header says of itself is the header's name."""
    assert named(tmp_path, source, f"{CHECK}void kernel() {{ CHECK(1); }}\n") == {"i1"}


@pytest.mark.parametrize(
    ("source", "header"),
    [
        pytest.param("CHECK(1);", CHECK, id="used"),
        pytest.param(
            "OUTER;", f"{CHECK}#define INNER CHECK(1)\n#define OUTER INNER\n", id="led to"
        ),
        pytest.param("#define MY CHECK\nMY(1);", CHECK, id="renamed"),
        pytest.param("CHECK(1);", "#define CHECK(x) \\\n  f(__FILE__)\n", id="spliced"),
        pytest.param("CHECK(1);", "#define CHECK(x) /* a\n b */ f(__FILE__)\n", id="commented"),
        pytest.param("CHECK(1);", ' /**/ # /**/ define CHECK(x) "/*" __FILE__ // */', id="odd"),
        pytest.param("JOIN(CH, ECK)(1);", f"{CHECK}#define JOIN(a, b) a##b\n", id="pasted"),
        pytest.param(
            "f();", "inline void f(auto = std::source_location::current());", id="caller's"
        ),
        pytest.param("f();", "inline auto f() { return __BASE_FILE__; }", id="the source's"),
        pytest.param("auto n = __FILE__;", "", id="in the source"),
    ],
)
def test_a_source_that_may_use_such_a_macro_counts(
    tmp_path: Path, source: str, header: str
) -> None:
    """However it is led to."""
    assert "label" in named(tmp_path, source, header)


def test_an_option_may_bring_such_a_macro(tmp_path: Path) -> None:
    """A macro of the command line is used by the source."""
    assert "label" in named(tmp_path, "MY(1);", CHECK, option="-DMY=CHECK")


@pytest.mark.parametrize(
    ("header", "definer"),
    [
        pytest.param("int n = sizeof(FILE_NAME);", "#define FILE_NAME __FILE__\n", id="used"),
        pytest.param(
            "int n = OUTER;", "#define N sizeof(__FILE__)\n#define OUTER (N + 1)\n", id="led to"
        ),
        pytest.param("int n = OUT\\\nER;", "#define OUTER sizeof(__FILE__)\n", id="spliced"),
        pytest.param(
            "int n = JOIN(OUT, ER);",
            "#define N sizeof(__FILE__)\n#define OUTER N\n#define JOIN(a, b) a##b\n",
            id="pasted",
        ),
        pytest.param("int n = LÄNGE;", "#define LÄNGE sizeof(__FILE__)\n", id="not ASCII"),
        pytest.param("int n = N;", "??=define N sizeof(__FI??/\nLE__)\n", id="as of old"),
        pytest.param("int n = N;", "#define N f(__builtin_FILE())\n", id="built in"),
        pytest.param(
            "int n = length();",
            "int length(std::source_location where = std::source_location::current());",
            id="caller's",
        ),
        pytest.param(
            "int n = length();",
            "#define HERE __builtin_FILE()\nint length(const char* where = HERE);",
            id="caller's, by a macro",
        ),
        pytest.param(
            "int n = length();",
            "class source_location {};\nint length(source_location l = l.current());",
            id="caller's, beside the class",
        ),
    ],
)
def test_a_header_that_may_use_a_macro_of_another_directory_counts(
    tmp_path: Path, header: str, definer: str
) -> None:
    """The name that is asked for is its own, though it does not say so."""
    files = {"i0/k.cu": "", "i1/k.h": header, "i2/names.h": definer}

    assert "i1" in bound(tmp_path, files)


@pytest.mark.parametrize("definer", ["i0/k.cu", "//names.h"], ids=["source", "elsewhere"])
def test_such_a_macro_may_be_defined_anywhere(tmp_path: Path, definer: str) -> None:
    """In the source, or in a header that is read by its path."""
    files = {"i0/k.cu": "", "i1/k.h": "int n = N;"}

    assert "i1" in bound(tmp_path, files | {definer: "#define N sizeof(__FILE__)\n"})


@pytest.mark.parametrize("option", ["-DN=sizeof(__FILE__)", "-D\0N=OUTER", "-DN=OUTER"])
def test_an_option_may_define_what_a_header_uses(tmp_path: Path, option: str) -> None:
    """As a macro of the command line."""
    files = {"i0/k.cu": "", "i1/k.h": "int n = N;", "i2/o.h": "#define OUTER sizeof(__FILE__)\n"}

    assert "i1" in bound(tmp_path, files, option=option)


@pytest.mark.parametrize(
    "definer",
    [
        pytest.param("#define CHECK(x) f(__FILE__)\n", id="a macro that is not used"),
        pytest.param("#define N 1\n// define n __FILE__\n", id="no directive"),
        pytest.param(
            "class source_location {\n static source_location current(const char* = F());\n};\n"
            "#define F() __builtin_FILE()\n",
            id="the class itself",
        ),
        pytest.param("#define CHECK sizeof(__FILE__)\n#define J(a) a##b\n", id="no such pieces"),
    ],
)
def test_a_header_that_uses_no_such_macro_counts_for_nothing(tmp_path: Path, definer: str) -> None:
    """Two installations of it share."""
    header = "int n = N; int check(int CHE); int m = J(check);"
    files = {"i0/k.cu": "", "i1/k.h": header, "i2/names.h": definer}

    assert bound(tmp_path, files) == {"i2"}


def test_two_thousand_headers_are_looked_through_in_seconds(tmp_path: Path) -> None:
    """Of a chain of macros through all of them."""
    files = {"i0/k.cu": "", "i1/0.h": "#define M0 sizeof(__FILE__)\n", "i2/k.h": "int n = M1999;"}
    for number in range(1, 2000):
        text = f"#define M{number} M{number - 1}\n" + "template <int N> struct S { int v; };\n" * 99
        files[f"i1/{number}.h"] = text
    begun = time.monotonic()

    assert bound(tmp_path, files) == {"i1", "i2"}
    assert time.monotonic() - begun < 30
