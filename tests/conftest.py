"""Fixtures of every test: three event loops, and three watchmen.

The watchmen fail the test that they watch, without being asked for:

- `no_blocking_calls`: an async test in which code of ajit blocks the event loop's thread;
- `no_leaked_processes`: a test that leaves a child process behind;
- `no_leaked_threads`: a test that leaves a non-daemon thread behind.

Fixtures of a wider scope are set up before them, so what a session fixture starts is not a leak.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import psutil
import pytest

from tests.blocking import watch_blocking_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How long something that is ending may take to end on a loaded 2-core machine. Arbitrary.
GRACE_SECONDS = 30.0
POLL_SECONDS = 0.02

# A shell starts what stands before a `&` with SIGINT ignored, and Python leaves it at that. What
# the tests start would inherit it, and not end when it is interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tester's own settings are no part of the tests.
os.environ["AJIT_CONFIG_FILE"] = ""

# Examples have no time limit of their own, and may be drawn slowly: on a busy machine either would
# fail a test that is right. A test that hangs has its limit.
SLOW_IS_FINE = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("ajit", deadline=None, suppress_health_check=SLOW_IS_FINE)
hypothesis.settings.load_profile("ajit")

KERNEL_LISTS_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children").exists()


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Every async test runs on each of these event loops."""
    return request.param


@pytest.fixture(autouse=True)
def no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail an async test in which ajit blocks the loop, even if something swallowed the error.

    `@pytest.mark.allow_blocking("the reason")` switches it off for a test.
    """
    marker = request.node.get_closest_marker("allow_blocking")
    if marker is not None and not marker.args:
        pytest.fail("allow_blocking needs a reason")
    if marker is not None or "anyio_backend" not in request.fixturenames:
        yield
        return
    with watch_blocking_calls(scanned_modules=["ajit"]) as calls:
        yield
    if calls:
        pytest.fail("blocked the event loop's thread: " + ", ".join(calls), pytrace=False)


@pytest.fixture(autouse=True)
def no_leaked_processes() -> Iterator[None]:
    """Fail a test that leaves a child process, a grandchild or a zombie behind."""
    before = set(_children())
    yield
    leaked = _what_stays(lambda: [child for child in _children() if child not in before])
    if leaked:
        pytest.fail(
            "left processes behind: " + ", ".join(map(_describe_process, leaked)), pytrace=False
        )


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fail a test that leaves a non-daemon thread behind."""
    before = set(threading.enumerate())
    yield
    leaked = _what_stays(lambda: [t for t in threading.enumerate() if _is_leak(t, before)])
    if leaked:
        pytest.fail("left threads behind: " + ", ".join(t.name for t in leaked), pytrace=False)


def _is_leak(thread: threading.Thread, before: set[threading.Thread]) -> bool:
    # anyio's worker threads end with their event loop, which a wider fixture may own.
    return thread not in before and not thread.daemon and thread.name != "AnyIO worker thread"


def _children() -> list[psutil.Process]:
    """Every descendant, but for those that come and go as they like."""
    found = []
    for pid in _descendants(os.getpid()):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if not _comes_and_goes(_command_line(process)):
                found.append(process)
    return found


def _comes_and_goes(command_line: str) -> bool:
    """Whether it is multiprocessing's tracker, or a helper of a browser, one of many.

    The browser itself counts: the fixture that starts it ends it.
    """
    if "multiprocessing.resource_tracker" in command_line:
        return True
    return "chromium" in command_line and " --type=" in command_line


def _descendants(pid: int) -> Iterator[int]:
    """Process ids below one, from the kernel's own list where it has one.

    psutil reads every process of the machine for it, which takes 12 ms instead of 0.04.
    """
    if not KERNEL_LISTS_CHILDREN:
        yield from (child.pid for child in psutil.Process(pid).children(recursive=True))
        return
    for children in _lists_of_children(pid):
        for child in children.split():
            yield int(child)
            yield from _descendants(int(child))


def _lists_of_children(pid: int) -> Iterator[str]:
    # Threads and processes come and go meanwhile.
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                yield (task / "children").read_text()


def _what_stays(find: Callable[[], list[Any]]) -> list[Any]:
    """The leftovers that `find` still finds after a grace for those that are ending."""
    deadline = time.monotonic() + GRACE_SECONDS
    while (found := find()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return found


def _describe_process(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({process.status()}: {_command_line(process) or process.name()})"
    except psutil.NoSuchProcess:
        return f"{process.pid} (gone by now)"


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        return ""
