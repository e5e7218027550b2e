"""Sources that a reader of texts would misunderstand: the compiler's own reads decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import ajit
    from tests.stale.world import Server

DEFAULT = "#ifndef V\n#define V 0\n#endif"
APPEARING = {
    "stdint.h": "#include <stdint.h>",
    "math.h": "#include <math.h>",
    "cuda_runtime.h": "#include <cuda_runtime.h>",
    "cstdint": "#include <cstdint>",
    "cuda_runtime.h, not asked for": "",
    "crt/host_defines.h": "",
    "cuda_cxx/kernel.hpp": "",
}
"""Header that appears in the user's directory, and what the source says of it."""


@pytest.mark.parametrize(
    "text",
    [
        "#if 0\nDon't read this, it's prose\n#endif\n#include <a.h>",
        '#if 0\nan odd " quote\n#endif\n#include <a.h>',
        "#ifndef NEVER\n#else\n#error Don't include x/*.h\n#endif\n#include <a.h>\n/* */",
        "#if 0\n#include <b.h>\n#endif\n#include <a.h>",
        "#define QUOTED \"//\" /* */\n#include <a.h> // it's",
        "/* \\\n*/ # /* */ inc\\\nlude <a.h>",
        "#define HEADER <a.h>\n#include HEADER",
        "#define NAME a\n#define IN(x) <x.h>\n#include IN(NAME)",
        "#include COMPUTED",
        "#define HAS(x) __has_include(x)\n#if HAS(<a.h>)\n#include <a.h>\n#endif\n" + DEFAULT,
        "#if __has_include(<a.h>)\n#define V 9\n#else\n#define V 0\n#endif",
        "#if !__has_include(<a.h>)\n#define V 0\n#else\n#include <a.h>\n#endif",
        '#include "b.h"\n#ifdef WANTS_A\n#include <a.h>\n#else\n#define V 0\n#endif',
        "%:include <a.h>",
        '_Pragma("once")\n#include <a.h>',
    ],
)  # fmt: skip
def test_what_a_source_includes_is_seen_however_it_says_so(
    server: Server, user: Path, asking: Callable[..., ajit.Spec], text: str
) -> None:
    """A header that is edited, goes and comes again is answered as by a fresh compile."""
    header, other = user / "a.h", user / "b.h"
    spec = asking(text, defines={"COMPUTED": "<a.h>"})
    other.write_text("")
    for content in ("#define V 1\n", "#define V 2\n"):
        header.write_text(content)
        server.check(spec)
    other.write_text("#define WANTS_A\n")
    server.check(spec)
    header.unlink()
    server.check(spec)
    header.write_text("#define V 3\n")
    server.check(spec)


@pytest.mark.parametrize("header", APPEARING)
def test_a_header_of_the_system_that_appears_in_the_users_directory_is_used(
    server: Server, user: Path, asking: Callable[..., ajit.Spec], header: str
) -> None:
    """Whether the compiler prefers it to its own, and what it makes of it, it says itself."""
    spec = asking(f"{APPEARING[header]}\n#ifndef V\n#define V 1\n#endif")
    before = server.check(spec)
    path = user / header.partition(",")[0]
    path.parent.mkdir(exist_ok=True)
    for number in (2, 3):
        path.write_text(f"#include_next <{header.partition(',')[0]}>\n#define V {number}\n")
        server.check(spec)
    path.unlink()

    assert server.check(spec) == before


def test_a_virtual_header_hides_a_file_and_includes_others(
    server: Server, user: Path, asking: Callable[..., ajit.Spec]
) -> None:
    """A file of its name counts only where the compiler takes it."""
    headers = {"a.h": '#include "b.h"\n', "lib/c.h": "#define ADDED 10\n"}
    spec = asking('#include "a.h"\n#include <lib/c.h>\n#define V (B + ADDED)', headers=headers)
    for name, text in [
        ("b.h", "#define B 1\n"),
        ("a.h", "#define B 5\n"),
        ("b.h", "#define B 2\n"),
        ("c.h", "#error not this one\n"),
        ("headers", "no folder"),
    ]:
        (user / name).write_text(text)
        server.check(spec)
    (user / "lib").mkdir()
    (user / "lib" / "c.h").write_text("#define ADDED 20\n")
    server.check(spec)
    (user / "b.h").unlink()

    assert server.check(spec).error


@pytest.mark.parametrize("flag", ["-include", "--pre-include", "-imacros", "@", "--options-file"])
def test_a_file_that_an_option_names_is_read(
    server: Server, user: Path, asking: Callable[..., ajit.Spec], flag: str
) -> None:
    """Each compiler knows some of these; of the others it says so, with and without a cache."""
    path = user / ("options" if flag in ("@", "--options-file") else "a.h")
    options = [f"@{path}"] if flag == "@" else [flag, str(path)]
    spec = asking("", options=options)
    server.check(spec)
    for number in (1, 2):
        text = f"-DV={number}\n" if path.name == "options" else f"#define V {number}\n"
        path.write_text(text)
        server.check(spec)
    path.unlink()
    server.check(spec)


def test_a_directory_in_a_file_of_options_is_searched(
    server: Server, user: Path, asking: Callable[..., ajit.Spec]
) -> None:
    """It is named nowhere in the spec."""
    hidden = user / "hidden"
    hidden.mkdir()
    options = user / "options"
    options.write_text(f"-I{hidden}\n")
    spec = asking("#include <a.h>", options=[f"@{options}"])
    server.check(spec)
    for number in (1, 2):
        (hidden / "a.h").write_text(f"#define V {number}\n")
        server.check(spec)
