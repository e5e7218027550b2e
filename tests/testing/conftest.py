"""The seams, each once as the real thing and once as the fake that stands for it."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest

from ajit.testing import FakeClock, FakeCompiler, FakeFileSystem
from tests.fuse.mounts import Mount, why_no_fuse

SMALL = "size=512k,mode=0700"


@pytest.fixture(scope="session")
def compiled_units(tmp_path_factory):
    """Compiled units, kept between tests that are not about the compiler."""
    return tmp_path_factory.mktemp("units")


@pytest.fixture
def fake_compiler(tmp_path, compiled_units):
    """A compiler for tests that are about something else."""
    return FakeCompiler(tmp_path / "fake-compiler", compiled_units)


@pytest.fixture(params=["real", "fake"])
def host_compiler(request, tmp_path):
    """The setting for either compiler."""
    return "" if request.param == "real" else str(FakeCompiler(tmp_path / "fake").path)


class RealSmallDisk:
    """A file system in memory, that is filled, or made read-only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Write until there is no room."""
        with (self.path / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError as exc:
                assert exc.errno == errno.ENOSPC  # noqa: PT017  # it fails at an unknown write

    def make_read_only(self) -> None:
        """As an operator does."""
        self._remount("ro")

    def mend(self) -> None:
        """Undo both."""
        self._remount("rw")
        (self.path / "filler").unlink(missing_ok=True)

    def _remount(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.path)], check=True)


class RealHangingDisk:
    """A FUSE file system whose server is told not to answer."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self.path = mount.path

    def hang(self) -> None:
        """Answer no call on what is there."""
        self._mount.hang("/")

    def mend(self) -> None:
        """Answer all."""
        self._mount.answer()


@pytest.fixture(params=["real", "fake"])
def small_disk(request, tmp_path):
    """A file system that can be full, or read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    if request.param == "fake":
        with FakeFileSystem(place) as system:
            yield system
        return
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    command = ["mount", "-t", "tmpfs", "-o", SMALL, "ajit-test", str(place)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a file system here: {done.stderr.strip()}")
    yield RealSmallDisk(place)
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(params=["real", "fake"])
def hanging_disk(request, tmp_path):
    """A file system that can stop answering."""
    place = tmp_path / "disk"
    place.mkdir()
    if request.param == "fake":
        with FakeFileSystem(place) as system:
            yield system
        return
    if reason := why_no_fuse():
        pytest.skip(reason)
    with Mount(tmp_path / "fuse") as mount:
        yield RealHangingDisk(mount)


class RealClock:
    """The machine's clock, of which a test can only wait for more."""

    unit_seconds = 0.2

    def time(self) -> float:
        """Unix time."""
        return time.time()

    def monotonic(self) -> float:
        """For differences."""
        return time.monotonic()

    def advance(self, seconds: float) -> None:
        """Wait."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(left)


@pytest.fixture(params=["real", "fake"])
def clock(request):
    """A clock, with a unit that a test can afford to wait."""
    if request.param == "real":
        yield RealClock()
        return
    with FakeClock() as fake:
        fake.unit_seconds = 1000.0
        yield fake
