"""The watchmen of conftest.py catch what they are there for, on every event loop."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import anyio
import pytest
from blockbuster import BlockingError

from tests.blocking import watch_blocking_calls

PROJECT = Path(__file__).parents[2]

pytest_plugins = ["pytester"]


@pytest.mark.anyio
async def test_blocking_call_on_the_loop_is_an_error():
    """A blocking call below a scanned module raises, on asyncio, uvloop and trio."""
    with watch_blocking_calls(scanned_modules=["tests.project.test_watchmen"]) as calls:
        with pytest.raises(BlockingError):
            time.sleep(0.001)
        with pytest.raises(BlockingError):
            os.fsync(0)

    assert calls == ["time.sleep", "os.fsync"]


@pytest.mark.anyio
async def test_swallowed_blocking_call_is_still_recorded():
    """Code that catches every exception does not hide its blocking call."""
    with (
        watch_blocking_calls(scanned_modules=["tests.project.test_watchmen"]) as calls,
        contextlib.suppress(Exception),
    ):
        time.sleep(0.001)

    assert calls == ["time.sleep"]


@pytest.mark.anyio
async def test_blocking_call_in_a_worker_thread_is_fine():
    """Only the thread of the loop is watched."""
    with watch_blocking_calls(scanned_modules=["tests.project.test_watchmen"]) as calls:
        await anyio.to_thread.run_sync(_sleep_a_moment)

    assert calls == []


@pytest.mark.parametrize(
    ("leak", "complaint"),
    [
        ("subprocess.Popen(['cat'], stdin=subprocess.PIPE)", "left processes behind: * cat)"),
        ("threading.Thread(target=RELEASE.wait, name='lost').start()", "left threads behind: lost"),
    ],
    ids=["process", "thread"],
)
def test_leak_fails_the_test_that_leaks(pytester, monkeypatch, leak, complaint):
    """A process or a thread that outlives its test fails that test, and is named."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    pytester.makeconftest(
        """
        import threading
        from tests import conftest
        from tests.conftest import no_leaked_processes, no_leaked_threads

        conftest.GRACE_SECONDS = 0.1
        RELEASE = threading.Event()

        def pytest_sessionfinish():
            RELEASE.set()
        """
    )
    pytester.makepyfile(
        f"""
        import subprocess, threading
        from conftest import RELEASE

        def test_leaks():
            global kept
            kept = {leak}
        """
    )

    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")

    result.stdout.fnmatch_lines([f"*{complaint}*"])
    result.assert_outcomes(passed=1, errors=1)


def _sleep_a_moment():
    time.sleep(0.001)
