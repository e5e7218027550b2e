"""What the runtime's tests share: a compiler under control, and a look at what is left behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from ajit._cache.flight import flights
from ajit._cache.lock import LeaseTable
from tests.runtime.scripted_compiler import ScriptedCompiler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GRACE_SECONDS = 5.0
POLL_SECONDS = 0.01


@pytest.fixture(scope="session")
def compiled_answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled units, kept between tests."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def compiler(tmp_path: Path, compiled_answers: Path) -> ScriptedCompiler:
    """A host compiler that waits, dies and counts as the test says."""
    return ScriptedCompiler(tmp_path / "compiler", compiled_answers)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    """Where the cache will be; not there yet."""
    return tmp_path / "cache"


@pytest.fixture
def options(cache_dir: Path, compiler: ScriptedCompiler) -> dict[str, Any]:
    """Arguments of `open_runtime`: own cache, scripted compiler, no device.

    The patience is longer than any test may take, so that a lease which was not given back shows
    as a test that does not end in time, and not as one compile more.
    """
    return {
        "cache_dir": str(cache_dir),
        "host_compiler": str(compiler.path),
        "device": "none",
        "compile_slots": 2,
        "patience_seconds": 300.0,
    }


@pytest.fixture
def with_device(options: dict[str, Any]) -> dict[str, Any]:
    """The same, on the CPU driver."""
    return {**options, "device": "cpu"}


@pytest.fixture(scope="session", autouse=True)
def opened_once() -> None:
    """Let libuv open what it keeps for the life of the process, so that it is not seen as a leak."""
    anyio.run(anyio.sleep, 0, backend="asyncio", backend_options={"use_uvloop": True})


@pytest.fixture(autouse=True)
def nothing_left(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], None]]:
    """Fail a test after which something of ajit is left; gives the check, for use in the middle.

    Looked for are leases, lease waits and flights of this process, temporary files in the cache,
    private build folders, and open descriptors. Processes and threads are the project's conftest's.
    """
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    before = _descriptors()

    def check() -> None:
        left = _what_stays(lambda: _leftovers(cache_dir, private))
        assert not left, f"left behind: {left}"

    yield check
    check()
    opened = _what_stays(lambda: list((_descriptors() - before).elements()))
    assert not opened, f"left open: {opened}"


class LockProbe:
    """Another process that says whether a lease is free. One for the whole session."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROBE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def held(self, cache_dir: Path) -> list[str]:
        """Return the lock files below a cache that some process holds."""
        return [str(path) for path in cache_dir.glob("locks/*/*.lock") if self._ask(path) == "held"]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _ask(self, path: Path) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


_PROBE = """
import fcntl, sys
for line in sys.stdin:
    with open(line.rstrip("\\n"), "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            answer = "free"
        except OSError:
            answer = "held"
    print(answer, flush=True)
"""


@pytest.fixture(scope="session")
def lock_probe() -> Iterator[LockProbe]:
    """Says, from another process, which leases are held."""
    probe = LockProbe()
    yield probe
    probe.close()


def _leftovers(cache_dir: Path, private: Path) -> list[str]:
    leases, aloft = LeaseTable.statistics(), flights.statistics()
    left = [str(path) for path in private.iterdir()]
    if (cache_dir / "tmp").is_dir():
        left += [str(path) for path in (cache_dir / "tmp").iterdir()]
    if leases.held or leases.waiting:
        left.append(repr(leases))
    if aloft.flights or aloft.members:
        left.append(repr(aloft))
    return left


def _descriptors() -> Counter[str]:
    """What is open, by name; the numbers change hands."""
    # A cache directory is closed when its last user is collected, and cycles take their time.
    gc.collect()
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            found[os.readlink(f"/proc/self/fd/{number}")] += 1
        except FileNotFoundError:
            continue  # that of the listing itself
    return Counter({_without_number(name): count for name, count in found.items()})


def _without_number(name: str) -> str:
    return name.partition("[")[0] if name.startswith("anon_inode") else name


def _what_stays(find: Callable[[], list[str]]) -> list[str]:
    deadline = time.monotonic() + GRACE_SECONDS
    while (found := find()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return found
