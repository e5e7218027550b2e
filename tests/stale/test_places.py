"""Headers that are not the user's: the system's, the toolchain's, and planted ones."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import ajit
    from tests.stale.world import Server

SYSTEM = Path("/usr/local/include")


@pytest.mark.parametrize("path", ["../", "../../", "", "tmp/"])
def test_a_header_planted_in_the_temporary_directory_changes_nothing(
    server: Server,
    asking: Callable[..., ajit.Spec],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    """It is there at one request and gone at the next; the answer stays."""
    name = f"planted-{uuid.uuid4().hex}.h"
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    planted = [Path(folder, name) for folder in ("/tmp", "/var/tmp") if os.access(folder, os.W_OK)]
    include = f'"{path}{name}"'
    spec = asking(
        f"#if __has_include({include})\n#include {include}\n#endif\n#ifndef V\n#define V 1\n#endif"
    )
    before = server.check(spec)
    compiles = server.compiles()
    try:
        for file in planted:
            file.write_text("#define V 666\n")
        during = server.check(spec)
    finally:
        for file in planted:
            file.unlink()

    assert before == during == server.check(spec)
    assert before.code
    assert server.compiles() == compiles


@pytest.mark.parametrize(
    "flag", ["-isystem", "-idirafter", "-iquote", "-I", "--include-path", "--system-include"]
)
def test_a_header_in_a_directory_that_an_option_names_is_upgraded(
    server: Server, tmp_path: Path, asking: Callable[..., ajit.Spec], flag: str
) -> None:
    """In place, and by a new directory under the old name."""
    library = tmp_path / "library"
    library.mkdir()
    spec = asking("#include <lib.h>", options=[flag, str(library)])
    server.check(spec)
    for number in (1, 2):
        (library / "lib.h").write_text(f"#define V {number}\n")
        server.check(spec)
    library.rename(tmp_path / "old")
    library.mkdir()
    (library / "lib.h").write_text("#define V 3\n")
    server.check(spec)


@pytest.fixture
def installed() -> Iterator[Path]:
    """A header of the system, to be installed; removed at the end."""
    path = SYSTEM / f"ajit-test-{uuid.uuid4().hex}.h"
    if not os.access(SYSTEM, os.W_OK):
        pytest.skip(f"{SYSTEM} cannot be written")
    yield path
    path.unlink(missing_ok=True)


def test_a_header_of_the_system_is_installed_upgraded_and_removed(
    server: Server, asking: Callable[..., ajit.Spec], installed: Path
) -> None:
    """Where no option names it: nvcc and the host's compiler look there by themselves."""
    spec = asking(f"#include <{installed.name}>")
    missing = server.check(spec)
    for number in (1, 2):
        installed.write_text(f"#define V {number}\n")
        server.check(spec)
    installed.unlink()

    assert server.check(spec) == missing
