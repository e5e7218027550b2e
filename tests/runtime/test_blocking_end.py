"""The end of a blocking runtime: its block is left, or never, or in a forked child."""

from __future__ import annotations

import subprocess
import sys
import threading

import anyio
import numpy as np
import pytest

import ajit
from tests.runtime.test_blocking import ADD

LIMIT_SECONDS = 120.0
"""After this a process counts as one that hangs."""

CALLS = {
    "kernel": lambda rt, _: rt.kernel(ADD),
    "module": lambda rt, _: rt.module(ADD),
    "compile": lambda rt, _: rt.compile(ADD),
    "warmup": lambda rt, _: rt.warmup([ADD]),
    "device": lambda rt, _: rt.device,
    "upload": lambda rt, _: rt.upload(b"1"),
    "download": lambda rt, _: rt.download(None),
    "alloc": lambda rt, _: rt.alloc(1),
    "synchronize": lambda rt, _: rt.synchronize(),
    "batch": lambda rt, _: rt.batch().__enter__(),
    "capture": lambda rt, _: rt.capture().__enter__(),
    "wait": lambda rt, ticket: rt.wait(ticket),
    "statistics": lambda rt, _: rt.statistics(),
}


@pytest.fixture
def settings(cache_dir):
    """Settings of a runtime on the CPU driver."""
    return {"device": "cpu", "cache_dir": cache_dir}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_call_after_the_block_says_that_the_runtime_is_closed(settings, backend):
    """An error of the block is not swallowed; the representation still works."""
    opening = ajit.open_blocking_runtime(backend=backend, **settings)
    rt = opening.__enter__()
    ticket = rt.device.mark()
    error = KeyboardInterrupt()

    assert not opening.__exit__(KeyboardInterrupt, error, None)
    for call in CALLS.values():
        with pytest.raises(ajit.RuntimeClosed, match="this runtime is closed"):
            call(rt, ticket)
    assert "closed" in repr(rt)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_call_in_the_loop_of_the_runtime_is_refused(settings, backend):
    """It would wait for itself."""
    with ajit.open_blocking_runtime(backend=backend, **settings) as rt:
        ticket = rt.device.mark()

        async def inside():
            for call in CALLS.values():
                with pytest.raises(ajit.UsageError, match="would wait for itself"):
                    call(rt, ticket)
            return True

        assert rt.call(inside)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_call_that_waits_while_the_block_is_left_is_told(settings, backend):
    """A thread in a call that would never end gets RuntimeClosed, and the block can be left."""
    waiting, told = threading.Event(), []

    def work(rt):
        async def wait_for_ever():
            waiting.set()
            await anyio.sleep_forever()

        try:
            rt.call(wait_for_ever)
        except ajit.RuntimeClosed as exc:
            told.append(str(exc))

    with ajit.open_blocking_runtime(backend=backend, **settings) as rt:
        thread = threading.Thread(target=work, args=(rt,))
        thread.start()
        assert waiting.wait(LIMIT_SECONDS)
    thread.join(LIMIT_SECONDS)

    assert told == ["this runtime was closed during this call"]


def test_a_block_is_entered_once(settings):
    """A second time is an error that says what to do."""
    opening = ajit.open_blocking_runtime(**settings)
    with opening as rt:
        assert rt.upload(np.ones(2)).nbytes == 16
    with pytest.raises(ajit.UsageError, match=r"call open_blocking_runtime\(\) again"):
        opening.__enter__()


PROLOGUE = """
import atexit, os, sys, threading
import ajit
from tests.runtime.test_blocking_end import ADD, CALLS
backend, cache_dir = sys.argv[1:]
opening = ajit.open_blocking_runtime(device="cpu", backend=backend, cache_dir=cache_dir)
"""


def run_script(text, backend, cache_dir):
    """Run a script in a process of its own; return what it printed, line by line."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROLOGUE + text, backend, str(cache_dir)],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


FORK = """
with opening as rt:
    ticket = rt.device.mark()
    child = os.fork()
    if child == 0:
        for call in CALLS.values():
            try:
                call(rt, ticket)
            except ajit.ForkedRuntime:
                print("refused", flush=True)
    else:
        assert os.waitpid(child, 0)[1] == 0
        rt.wait(ticket)
        print("parent", flush=True)
if child == 0:
    del rt, opening
    sys.exit(0)
"""

FORK_IN_A_CAPTURE = """
with opening as rt:
    x = rt.alloc(8)
    try:
        with rt.capture() as graph:
            graph.add_fill(x, 0)
            child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            print("captured", graph.captured)
    except ajit.ForkedRuntime:
        print("refused", flush=True)
"""

NEVER_LEFT = """
rt = opening.__enter__()
atexit.register(lambda: print(repr(rt).split()[2]))
rt.synchronize()
print(rt.kernel(ADD).name)
"""

DROPPED = """
rt = opening.__enter__()
atexit.register(lambda: print(repr(rt).split()[2]))
del opening
rt.synchronize()
print("open")
"""

LEFT_TO_A_THREAD = """
go_on = threading.Event()
def work():
    with opening as rt:
        atexit.register(lambda: print(repr(rt).split()[2]))
        go_on.set()
        main.join()
        rt.synchronize()
        print("open", flush=True)
main = threading.main_thread()
threading.Thread(target=work).start()
go_on.wait()
"""

OPENED_AT_THE_END = """
def work():
    main.join()
    with opening as rt:
        rt.synchronize()
        print("open", flush=True)
    print(repr(rt).split()[2])
main = threading.main_thread()
threading.Thread(target=work).start()
"""

NEVER_LEFT_BY_A_THREAD = """
go_on = threading.Event()
def work():
    rt = opening.__enter__()
    atexit.register(lambda: print(repr(rt).split()[2]))
    go_on.set()
    main.join()
    rt.synchronize()
    print("open", flush=True)
main = threading.main_thread()
threading.Thread(target=work).start()
go_on.wait()
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
class TestProcess:
    """Whole processes: each must end, with nothing on standard error."""

    def test_forked_child_is_refused_each_call_and_leaves_the_block_at_once(
        self, backend, cache_dir
    ):
        """The parent goes on."""
        expected = ["refused"] * len(CALLS) + ["parent"]

        assert run_script(FORK, backend, cache_dir) == expected

    def test_forked_child_leaves_the_block_of_a_capture(self, backend, cache_dir):
        """It is refused there; the parent has its graph."""
        assert run_script(FORK_IN_A_CAPTURE, backend, cache_dir) == ["refused", "captured True"]

    @pytest.mark.parametrize(
        ("script", "expected"),
        [
            (NEVER_LEFT, "add"),
            (DROPPED, "open"),
            (LEFT_TO_A_THREAD, "open"),
            (NEVER_LEFT_BY_A_THREAD, "open"),
            (OPENED_AT_THE_END, "open"),
        ],
        ids=[
            "never-left",
            "dropped",
            "left-to-a-thread",
            "never-left-by-a-thread",
            "opened-at-the-end",
        ],
    )
    def test_interpreter_exits(self, backend, cache_dir, script, expected):
        """A runtime that was never left is closed, but not under a thread in its block."""
        assert run_script(script, backend, cache_dir) == [expected, "closed"]
