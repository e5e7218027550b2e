"""Directives are found where a preprocessor would find them, and nowhere else."""

from __future__ import annotations

import threading

import pytest

from ajit._compile.headers.scanner import scan


def names(source: bytes) -> list[str | None]:
    """Names of the directives of a source."""
    return [directive.name for directive in scan(source)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (b'#include "a.h"\n#include <b/c.h>', ["a.h", "b/c.h"]),
        (b'  #  include\t"a.h" // why', ["a.h"]),
        (b'#include/* x */"a.h"', ["a.h"]),
        (b'/* x */ #include "a.h"', ["a.h"]),
        (b'%:include "a.h"', ["a.h"]),
        (b'#include \\\n  "a.h"', ["a.h"]),
        (b'#include \\\r\n  "a.h"\r\n#include "b.h"\r\n', ["a.h", "b.h"]),
        (b'#inc\\\nlude "a.h"', ["a.h"]),
        (b"#if __has_\\\r\ninclude(<a.h>)", ["a.h"]),
        (b'#include_next <a.h>\n#import "b.h"', ["a.h", "b.h"]),
        (b"#embed <weights.bin>", ["weights.bin"]),
        (b'\xef\xbb\xbf#include "a.h"', ["a.h"]),
        (b"#include <a//b.h>", ["a//b.h"]),
        (b'#include "caf\xe9.h"', ["caf\udce9.h"]),
        (b"#include HEADER", [None]),
        (b'#if __has_include(<a.h>) && __has_include("b.h")', ["a.h", "b.h"]),
        (b"#if defined(__has_include)\n#ifdef __has_include", []),
        (b"#define HAS(x) __has_include(x)", []),
        (b"#if __has_include(HEADER)", [None]),
    ],
)
def test_a_directive_is_found(source: bytes, expected: list[str | None]) -> None:
    """Every spelling of a directive counts, also those in branches that are not taken."""
    actual = names(source)

    assert expected == actual


@pytest.mark.parametrize(
    "source",
    [
        b'// #include "a.h"',
        b'// goes on \\\n#include "a.h"',
        b'/* \n#include "a.h"\n */',
        b'const char* s = R"(\n#include "a.h"\n)";',
        b'const char* s = R"x(\n)" \n#include "a.h"\n)x";',
        b'int x; #include "a.h"',
        b"#included <a.h>",
    ],
)
def test_text_that_looks_like_a_directive_is_none(source: bytes) -> None:
    """Comments, raw strings and text after code hold no directive."""
    assert names(source) == []


@pytest.mark.parametrize(
    "before",
    [
        b'const char* s = "/*";',
        b"char c = '\"'; char d = '/*';",
        b'const char* s = "\\"/*";',
        b"int n = 1'000'000; int m = 0x1'f; // it's",
        b'const char* s = "// not";',
        b'const char* s = R"(/*)"; /* x */',
        b"/* it's \" unbalanced */",
        b"#error don't /* x */",
        b"/* a */ /* b\n */",
    ],
)
def test_no_directive_is_lost_behind(before: bytes) -> None:
    """Text that only looks like the beginning of a comment or string hides nothing."""
    assert names(before + b'\n#include "a.h"\n') == ["a.h"]


def test_a_directive_knows_its_line() -> None:
    """Lines are counted from 1; a continued line counts where it begins."""
    lines = [directive.line for directive in scan(b'\n#include "a.h"\nint \\\n x;\n#include "b.h"')]

    assert lines == [2, 5]


def test_a_huge_source_does_not_hold_the_gil() -> None:
    """Other threads run while 10 MB are scanned; the event loop is one of them."""
    source = b'#include "a.h"\n' + b"__global__ void f(float* x) { x[0] = 1; } // it's\n" * 200_000
    turns, done = 0, threading.Event()

    def watch() -> None:
        nonlocal turns
        while not done.wait(0.001):
            turns += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = turns
    found = names(source)
    taken = turns - before
    done.set()
    watcher.join()

    assert found == ["a.h"]
    # A pattern over the whole text would hold it from the beginning to the end.
    assert taken >= 10
