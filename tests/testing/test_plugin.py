"""The pytest plugin in real runs of pytest, as a user has it: loaded by its entry point."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

KERNEL = """
import os, subprocess, sys
import anyio, pytest
import ajit

pytestmark = pytest.mark.anyio
SOURCE = 'extern "C" __global__ void {name}(float* x) {{ x[threadIdx.x] = 2; }}'

def spec(name="two"):
    return ajit.Spec(SOURCE.format(name=name), name)

async def result_of(rt, name="two"):
    kernel = await rt.kernel(spec(name))
    x = await rt.device.alloc(4, "float32")
    await kernel[1, 4](x)
    return (await rt.device.download(x)).tolist()
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest over a test file, in a process and a folder of its own."""
    for name in ("AJIT_DEVICE", "AJIT_CACHE_DIR", "AJIT_MODE", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)

    def run(text, *args, ini=""):
        pytester.makepyfile(test_it=KERNEL + text)
        pytester.makeini("[pytest]\n" + ini)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers", *args)

    return run


def test_runtime_is_open_on_every_loop(run):
    """On the CPU driver, over a temporary cache that child processes use as well."""
    result = run(
        """
async def test_kernel(ajit_runtime, ajit_cache):
    assert await result_of(ajit_runtime) == [2.0] * 4
    assert ajit_runtime.settings.cache_dir == ajit_cache
    assert ajit_runtime.settings.device == "cpu"
    assert os.environ["AJIT_CACHE_DIR"] == str(ajit_cache)

def test_variable_is_gone():
    assert "AJIT_CACHE_DIR" not in os.environ
""",
        "-v",
        ini="ajit_loops = asyncio uvloop trio\n",
    )

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        ["*test_kernel[[]asyncio]*", "*test_kernel[[]uvloop]*", "*test_kernel[[]trio]*"]
    )


def test_options_of_the_runtime_are_overridden(run):
    """By a fixture of the same name, as in pytest."""
    result = run(
        """
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
def ajit_options(ajit_options):
    return {**ajit_options, "device": "none", "mode": "frozen"}

async def test_frozen(ajit_runtime):
    with pytest.raises(ajit.CompileForbidden):
        await ajit_runtime.compile(spec(), arch="sm_90a")
"""
    )

    result.assert_outcomes(passed=1)


def test_cache_of_a_session_is_kept_between_tests(run):
    """Each kernel compiles once for all of them; by default it compiles for each."""
    text = """
@pytest.mark.parametrize("number", [1, 2])
async def test_tier(ajit_runtime, number):
    print("tier", (await ajit_runtime.resolve(spec())).tier)

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
    kept, apart = run(text, "-s", ini="ajit_cache = session\n"), run(text, "-s")

    assert ["compiled", "disk"] == re.findall(r"tier (\w+)", kept.stdout.str())
    assert ["compiled", "compiled"] == re.findall(r"tier (\w+)", apart.stdout.str())


def test_workers_of_xdist_share_the_cache_of_a_session(run):
    """One compile for all of them."""
    result = run(
        """
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.parametrize("number", range(4))
async def test_entries(ajit_runtime, number, ajit_cache):
    await ajit_runtime.compile(spec())
    assert len(list(ajit_cache.glob("entries/*/*.ajit"))) == 1
    assert not ajit_cache.parent.name.startswith("popen-")
""",
        "-n",
        "2",
        ini="ajit_cache = session\n",
    )

    result.assert_outcomes(passed=4)


NO_COMPILE = """
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def warm(ajit_runtime):
    await ajit_runtime.kernel(spec("warm"))
    return ajit_runtime

@pytest.mark.ajit_no_compile
async def test_warm(warm):
    assert await result_of(warm, "warm") == [2.0] * 4

@pytest.mark.ajit_no_compile
async def test_cold(warm):
    await warm.kernel(spec("cold").with_(defines={"N": 1}))

@pytest.mark.ajit_no_compile
async def test_swallowed(warm):
    try:
        await warm.kernel(spec("warm").with_(defines={"N": 1}))
    except ajit.AjitError:
        pass

@pytest.mark.ajit_no_compile
async def test_runtime_of_its_own(warm):
    async with ajit.open_runtime(device="none", mode="normal") as rt:
        await rt.compile(spec("own"))

@pytest.mark.ajit_no_compile
def test_child():
    assert os.environ["AJIT_MODE"] == "frozen"

async def test_unmarked(warm):
    await warm.kernel(spec("later"))
    assert "AJIT_MODE" not in os.environ
"""


def test_compile_where_none_is_allowed_fails_the_test(run):
    """With the kernel's name, why it was a miss, and who asked, though it was swallowed."""
    result = run(NO_COMPILE)
    text = result.stdout.str()

    result.assert_outcomes(passed=3, failed=3)
    for failed in ("test_cold", "test_swallowed", "test_runtime_of_its_own"):
        assert f"FAILED test_it.py::{failed}" in text
    assert "a compile was asked for where none is allowed" in text
    assert "define N" in text
    assert "in test_swallowed" in text


BLOCKED = """
import time

@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param

async def test_blocks():
    the_culprit()

def the_culprit():
    time.sleep(2.0)

async def test_waits():
    await anyio.sleep(1.0)

def test_without_a_loop():
    time.sleep(1.0)
"""


def test_blocked_loop_fails_the_test_with_the_stack(run):
    """Of where it was blocked; a loop that waits is not, nor is there one in a plain test."""
    result = run(BLOCKED, ini="ajit_blocked_loop_seconds = 0.5\n")
    text = result.stdout.str()

    result.assert_outcomes(failed=2, passed=3)
    assert "FAILED test_it.py::test_blocks[asyncio]" in text
    assert "FAILED test_it.py::test_blocks[trio]" in text
    assert "the event loop was blocked for" in text
    assert "in the_culprit" in text
    assert "time.sleep(2.0)" in text


def test_watch_can_be_asked_for_by_one_test(run):
    """By the fixture; without it, and without the option, nothing is watched."""
    result = run(
        BLOCKED
        + """
async def test_watched(ajit_loop_watch):
    the_culprit()
    raise RuntimeError("its own")
"""
    )
    text = result.stdout.str()

    result.assert_outcomes(failed=2, passed=5)
    assert "RuntimeError: its own" in text
    assert "the event loop was blocked for" in text


def test_runtime_is_refused_in_a_test_of_pytest_asyncio(run):
    """Its loop is another one; the message says what to do."""
    result = run(
        """
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.asyncio
async def test_other_loop(ajit_runtime):
    pass
""".replace("pytestmark", "")
    )

    assert result.ret == 1
    result.stdout.fnmatch_lines(["*mark this test with pytest.mark.anyio*"])


@pytest.mark.parametrize(
    ("ini", "complaint"),
    [
        ("ajit_cache = forever", "ajit_cache must be test or session"),
        ("ajit_loops = asyncio curio", "ajit_loops takes asyncio, uvloop, trio"),
        ("ajit_blocked_loop_seconds = soon", "must be a number of seconds, got 'soon'"),
    ],
)
def test_wrong_option_ends_the_run(run, ini, complaint):
    """Before any test, with what is allowed."""
    result = run("def test_nothing(): pass", ini=ini + "\n")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert complaint in result.stderr.str() + result.stdout.str()


def test_plugin_loads_nothing_heavy():
    """It is imported at the start of every run of pytest where ajit is installed."""
    program = (
        "import sys, pytest; before = set(sys.modules); import ajit.testing.plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["ajit", "ajit.testing", "ajit.testing.plugin"]
