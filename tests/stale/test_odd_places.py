"""Headers in places that look like the kernel's own, or like the compile's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._compile.worker.listing import is_ignored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import ajit
    from tests.stale.world import Server

MEMORY = "/dev/shm"


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory in a file system in memory that lies among the devices."""
    if not os.access(MEMORY, os.W_OK):
        pytest.skip(f"{MEMORY} cannot be written")
    with tempfile.TemporaryDirectory(dir=MEMORY) as made:
        yield Path(made)


def test_a_header_among_the_devices_is_seen(
    server: Server, in_memory: Path, asking: Callable[..., ajit.Spec]
) -> None:
    """It appears, is edited, and goes; without a compile more than that takes."""
    spec = asking("#include <a.h>", include_dirs=[in_memory])

    assert server.check_edits(spec, in_memory / "a.h").error


@pytest.mark.filterwarnings("ignore::ajit.AjitWarning")
@pytest.mark.parametrize("how", ["path", "directory"])
def test_a_header_that_is_reached_through_a_process_is_not_relied_on(
    server: Server, user: Path, asking: Callable[..., ajit.Spec], how: str
) -> None:
    """Its path means another file, or none, when that process is gone."""
    through = f"/proc/{os.getpid()}/root{user}"
    header, dirs = (f'"{through}/a.h"', []) if how == "path" else ("<a.h>", [through])
    spec = asking(f"#include {header}", include_dirs=dirs)
    unpublished = server.unpublished()
    for number in (1, 2):
        (user / "a.h").write_text(f"#define V {number}\n")
        server.check(spec)

    assert server.unpublished() == unpublished + 2


@pytest.mark.filterwarnings("ignore::ajit.AjitWarning")
def test_a_header_that_climbs_out_of_the_jobs_folder_is_not_relied_on(
    server: Server, user: Path, tmp_path: Path, asking: Callable[..., ajit.Spec]
) -> None:
    """The directory of virtual headers comes before the user's, and lies in that folder."""
    other = tmp_path / "other.h"
    (user / "a.h").write_text(f"#include <{'../' * 45}{str(other)[1:]}>\n")
    spec = asking("#include <a.h>", headers={"virtual.h": ""})
    for number in (1, 2):
        other.write_text(f"#define V {number}\n")
        server.check(spec)


@pytest.mark.filterwarnings("ignore::ajit.AjitWarning")
def test_a_header_whose_name_is_no_text_is_compiled(
    server: Server, user: Path, asking: Callable[..., ajit.Spec]
) -> None:
    """No list can name it, so the kernel is not kept."""
    (user / "a.h").write_bytes(b'#include "\xff.h"\n')
    spec = asking("#include <a.h>")
    unpublished = server.unpublished()
    for number in (1, 2):
        Path(os.fsdecode(os.fsencode(user) + b"/\xff.h")).write_text(f"#define V {number}\n")
        server.check(spec)

    assert server.unpublished() == unpublished + 2


def test_a_directory_beside_a_private_one_is_not_private() -> None:
    """Their names may begin alike."""
    private = ("/home/user/.cache/zig/",)

    assert is_ignored("/home/user/.cache/zig/o/lib.a", private)
    assert not is_ignored("/home/user/.cache/zig-headers/a.h", private)
