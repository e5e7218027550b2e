"""Shared by the runtime's tests: a compiler under control, and a check for leftovers."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from ajit._cache.leases.table import LeaseTable
from ajit._resolve.flight import flights
from ajit.testing import FakeCompiler
from tests.fuse.mounts import Mount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAILED = pytest.StashKey[bool]()
GRACE_SECONDS = 30.0
OWN_THREADS = ("ajit-compile", "ajit-cuda")
POLL_SECONDS = 0.01


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """Remember whether the test itself failed."""
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture
def mount(tmp_path):
    """A file system of this test's own."""
    with Mount(tmp_path / "fuse") as mounted:
        yield mounted


@pytest.fixture(scope="session")
def compiled_answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled units, kept between tests."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def compiler(tmp_path: Path, compiled_answers: Path) -> FakeCompiler:
    """A host compiler that waits, dies and counts as the test says."""
    return FakeCompiler(tmp_path / "compiler", compiled_answers)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    """Where the cache will be; not there yet."""
    return tmp_path / "cache"


@pytest.fixture
def options(cache_dir: Path, compiler: FakeCompiler) -> dict[str, Any]:
    """Arguments of `open_runtime`: own cache, scripted compiler, no device.

    The patience is longer than any test may take, so that a lease which was not released shows
    as a test that does not end in time, and not as one compile more.
    """
    return {
        "cache_dir": str(cache_dir),
        "host_compiler": str(compiler.path),
        "device": "none",
        "compile_slots": 2,
        # More runtimes than this machine has CPUs hold a compile each in some tests.
        "node_compile_slots": 8,
        "patience_seconds": 300.0,
    }


@pytest.fixture
def with_device(options: dict[str, Any]) -> dict[str, Any]:
    """The same, on the CPU driver."""
    return {**options, "device": "cpu"}


@pytest.fixture(scope="session", autouse=True)
def opened_once() -> None:
    """Let libuv open what it keeps for the life of the process: that is no leak."""
    anyio.run(anyio.sleep, 0, backend="asyncio", backend_options={"use_uvloop": True})


@pytest.fixture(autouse=True)
def nothing_left(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    cache_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., None]]:
    """Fail a test after which something of ajit is left; gives the check, for use in the middle.

    Looked for are leases, lease waits and flights of this process, the runtime's own threads,
    temporary files in the cache, private build folders, and open descriptors. The project's
    conftest looks for child processes.
    """
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    before = _descriptors()

    def check(*, open_runtime: bool = False) -> None:
        left = _what_stays(lambda: _leftovers(cache_dir, private, threads=not open_runtime))
        assert not left, f"left behind: {left}"

    yield check
    if request.node.stash.get(FAILED, True):
        return  # its traceback keeps things alive, and one complaint is enough
    check()
    opened = _what_stays(lambda: _opened_since(before))
    assert not opened, f"left open: {opened}"


class LockPeer:
    """Another process that asks for locks and holds them, as told."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PEER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def held(self, cache_dir: Path) -> list[str]:
        """Return the lock files below a cache that some other process holds, and goes on holding.

        A thread whose waiter has left may win a lock all the same, and gives it back at once.
        """
        paths = list(cache_dir.glob("locks/*/*.lock"))
        return _what_stays(lambda: [str(p) for p in paths if self._tell("ask", p) == "held"])

    def hold(self, path: Path) -> None:
        """Take the lock of a file, which is made if need be, and hold it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        assert self._tell("hold", path) == "holding"

    def drop(self, path: Path) -> None:
        """Give the lock back."""
        assert self._tell("drop", path) == "dropped"

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _tell(self, word: str, path: Path) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word} {path}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


_PEER = """
import fcntl, os, sys
holding = {}
for line in sys.stdin:
    word, path = line.rstrip("\\n").split(" ", 1)
    if word == "drop":
        os.close(holding.pop(path))
        print("dropped", flush=True)
        continue
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        answer = "holding" if word == "hold" else "free"
    except OSError:
        answer = "held"
    if answer == "holding":
        holding[path] = file
    else:
        os.close(file)
    print(answer, flush=True)
"""


@pytest.fixture(scope="session")
def lock_peer() -> Iterator[LockPeer]:
    """Asks for leases, and holds them, in another process. One for the whole session."""
    peer = LockPeer()
    yield peer
    peer.close()


def _leftovers(cache_dir: Path, private: Path, *, threads: bool) -> list[str]:
    leases, aloft = LeaseTable.statistics(), flights.statistics()
    left = [str(path) for path in private.iterdir()]
    if (cache_dir / "tmp").is_dir():
        left += [str(path) for path in (cache_dir / "tmp").iterdir()]
    # Threads that wait for locks are kept for the next wait; those of a runtime end with it.
    if threads:
        left += [t.name for t in threading.enumerate() if t.name.startswith(OWN_THREADS)]
    if leases.held or leases.waiting:
        left.append(repr(leases))
    if aloft.flights or aloft.members:
        left.append(repr(aloft))
    return left


def _opened_since(before: Counter[str]) -> list[str]:
    if opened := _descriptors() - before:
        # A cache directory is closed when its last user is collected, and cycles take their time.
        gc.collect()
        opened = _descriptors() - before
    return list(opened.elements())


def _descriptors() -> Counter[str]:
    """Open descriptors by name; the numbers are reused."""
    found: Counter[str] = Counter()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found[str(descriptor.readlink())] += 1
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
