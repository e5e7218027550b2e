"""What runtimes live in: test frameworks, notebooks, engines, loops that end without a word.

Each host is a program in a child process, as its users have it. A host that hangs fails its test.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.runtime.processes import PROJECT
from tests.runtime.sources import SAXPY_SOURCE

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_SECONDS = 60.0
"""After this a program counts as one that hangs."""

COMMON = """
import asyncio, json, os, signal, sys, threading, warnings
import anyio
import ajit

SETTINGS = json.loads(os.environ["SETTINGS"])
SPEC = ajit.Spec(os.environ["SOURCE"], "saxpy")
"""

PYTEST_INI = """
[pytest]
addopts = -p no:cacheprovider
asyncio_default_fixture_loop_scope = function
filterwarnings =
    error
    # pytest says so of ajit's own plugin, where ajit is installed to be edited.
    ignore:Module already imported so cannot be rewritten:pytest.PytestAssertRewriteWarning
"""


@pytest.fixture
def environment(with_device, monkeypatch):
    """What the programs read."""
    monkeypatch.setenv("SETTINGS", json.dumps(with_device))
    monkeypatch.setenv("SOURCE", SAXPY_SOURCE)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


def run_program(program: str, *, before: str = "", flags: tuple[str, ...] = ("-W", "error")):
    """Run a program after `COMMON`, and return how it ended."""
    code = before + COMMON + program
    return subprocess.run(
        [sys.executable, *flags, "-c", code],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


def run_pytest(folder: Path, program: str):
    """Run a file of tests in a pytest of its own, and return how it ended."""
    (folder / "pytest.ini").write_text(PYTEST_INI)
    (folder / "test_user.py").write_text(COMMON + program)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", str(folder), "test_user.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


def needs(module: str) -> None:
    """Skip where a peer is not installed."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


@pytest.fixture
def folder(tmp_path):
    """Where a user's tests are."""
    made = tmp_path / "user"
    made.mkdir()
    return made


# --- test frameworks ----------------------------------------------------------------------------

PYTEST_ASYNCIO = """
import pytest, pytest_asyncio

opened = []

@pytest_asyncio.fixture(scope="SCOPE", loop_scope="SCOPE")
async def rt():
    async with ajit.open_runtime(**SETTINGS) as runtime:
        opened.append(runtime)
        yield runtime

@pytest_asyncio.fixture(scope="SCOPE", loop_scope="SCOPE")
async def by_hand():
    runtime = await ajit.start_runtime(**SETTINGS)
    yield runtime
    await runtime.aclose()

@pytest.mark.asyncio(loop_scope="SCOPE")
async def test_one(rt):
    assert (await rt.kernel(SPEC)).name == "saxpy"

@pytest.mark.asyncio(loop_scope="SCOPE")
async def test_two(rt):
    assert (await rt.kernel(SPEC)).name == "saxpy"
    assert len(opened) == (2 if "SCOPE" == "function" else 1)

@pytest.mark.asyncio(loop_scope="SCOPE")
async def test_three(by_hand):
    assert (await by_hand.kernel(SPEC)).name == "saxpy"

def test_after():
    if "SCOPE" == "function":
        assert not [t.name for t in threading.enumerate() if t.name.startswith("ajit")]
"""


@pytest.mark.parametrize("scope", ["function", "session"])
def test_fixture_of_pytest_asyncio_holds_a_runtime(environment, folder, scope):
    """Its setup, the tests and its teardown are tasks, each of its own."""
    needs("pytest_asyncio")

    ran = run_pytest(folder, PYTEST_ASYNCIO.replace("SCOPE", scope))

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "4 passed" in ran.stdout


ANYIO_PLUGIN = """
import pytest

@pytest.fixture(scope="session", params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param

@pytest.fixture(scope="session")
async def rt(anyio_backend):
    async with ajit.open_runtime(**SETTINGS) as runtime:
        yield runtime

@pytest.fixture
async def by_hand(anyio_backend):
    runtime = await ajit.start_runtime(**SETTINGS)
    yield runtime
    await runtime.aclose()

@pytest.mark.anyio
async def test_one(rt, by_hand):
    assert (await rt.kernel(SPEC)).name == "saxpy"
    assert (await by_hand.kernel(SPEC)).name == "saxpy"

@pytest.mark.anyio
async def test_two(rt):
    assert (await rt.kernel(SPEC)).name == "saxpy"
"""


def test_fixture_of_anyios_plugin_holds_a_runtime(environment, folder):
    """For the whole session and for one test, on asyncio and trio."""
    ran = run_pytest(folder, ANYIO_PLUGIN)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "4 passed" in ran.stdout


# --- loops that run more than once --------------------------------------------------------------

CELLS = """
async def first():
    global rt
    rt = await ajit.start_runtime(**SETTINGS)
    await rt.kernel(SPEC)

async def second():
    block = ajit.open_runtime(**SETTINGS)
    other = await block.__aenter__()
    kernel = await rt.kernel(SPEC)
    await other.kernel(SPEC)
    return block

async def third(block):
    await rt.kernel(SPEC.with_(defines=(("N", "1"),)))
    await block.__aexit__(None, None, None)
    await rt.aclose()

loop = NEW_LOOP()
loop.run_until_complete(first())
block = loop.run_until_complete(second())
loop.run_until_complete(third(block))
loop.close()
print("closed" in repr(rt), [t.name for t in threading.enumerate() if t.name.startswith("ajit")])
"""


@pytest.mark.parametrize("new_loop", ["asyncio.new_event_loop", "uvloop.new_event_loop"])
def test_cells_of_a_notebook_share_a_runtime(environment, new_loop):
    """Each cell is a task of one loop, which stands still between them."""
    program = CELLS.replace("NEW_LOOP", new_loop)

    ran = run_program("import uvloop\n" + program if "uvloop" in new_loop else program)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[0] == "True"


NESTED = """
import nest_asyncio
nest_asyncio.apply()

async def inner(rt):
    return (await rt.kernel(SPEC)).name

async def main():
    async with ajit.open_runtime(**SETTINGS) as rt:
        print(asyncio.run(inner(rt)))
    rt = await ajit.start_runtime(**SETTINGS)
    await rt.kernel(SPEC)
    await rt.aclose()

asyncio.run(main())
print("end")
"""


def test_process_with_nest_asyncio_ends(environment):
    """It runs loops inside of each other, and never calls what waits for the end of the first."""
    needs("nest_asyncio")

    ran = run_program(NESTED, flags=())

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["saxpy", "end"]


# --- an engine ----------------------------------------------------------------------------------

ENGINE = """
class Engine:
    async def start(self):
        self.rt = await ajit.start_runtime(**SETTINGS)
        self.stopped = anyio.Event()

    async def stop(self):
        await self.rt.aclose()
        self.stopped.set()

async def main():
    engine = Engine()
    await engine.start()
    await engine.rt.kernel(SPEC)
    WATCH
    print("ready", flush=True)
    await engine.stopped.wait()
    print("closed" in repr(engine.rt))

anyio.run(main, backend=BACKEND, backend_options=LOOP_OPTIONS)
"""

ASYNCIO_HANDLER = """
    stopping = []
    def on_signal():
        stopping.append(asyncio.ensure_future(engine.stop()))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_signal)
"""

TASK_OF_SIGNALS = """
    import trio
    async def on_signal():
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            trio.lowlevel.current_trio_token().run_sync_soon(ready.set)
            async for _ in signals:
                await engine.stop()
                return
    ready = anyio.Event()
    trio.lowlevel.spawn_system_task(on_signal)
    await ready.wait()
"""


@pytest.mark.parametrize(
    ("backend", "loop_options", "watch"),
    [
        ("asyncio", {}, ASYNCIO_HANDLER),
        ("asyncio", {"use_uvloop": True}, ASYNCIO_HANDLER),
        ("trio", {}, TASK_OF_SIGNALS),
    ],
    ids=["asyncio", "asyncio+uvloop", "trio"],
)
def test_engine_is_stopped_by_the_handler_of_a_signal(environment, backend, loop_options, watch):
    """The handler's task closes what the main task started."""
    program = COMMON + ENGINE.replace("    WATCH\n", watch).replace(
        "BACKEND", repr(backend)
    ).replace("LOOP_OPTIONS", repr(loop_options))
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as engine:
        assert engine.stdout is not None
        ready = engine.stdout.readline()
        engine.send_signal(signal.SIGTERM)
        output, errors = engine.communicate(timeout=LIMIT_SECONDS)

    assert ready == "ready\n", errors
    assert engine.returncode == 0, errors
    assert output == "True\n"


# --- loops that end -----------------------------------------------------------------------------

FORGOTTEN = """
kept = []

async def main():
    rt = await ajit.start_runtime(**SETTINGS)
    kept.append(rt)
    await rt.kernel(SPEC)
    with anyio.CancelScope() as scope:
        if MIDWAY:
            scope.cancel()
            await rt.aclose()

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    anyio.run(main, backend=BACKEND, backend_options=LOOP_OPTIONS)
print(json.dumps({
    "closed": "closed" in repr(kept[0]),
    "threads": [t.name for t in threading.enumerate() if t.name.startswith(("ajit-c", "AnyIO"))],
    "warned": [str(w.message) for w in caught],
}))
"""


@pytest.mark.parametrize("midway", [False, True], ids=["open", "closing"])
@pytest.mark.parametrize(
    ("backend", "loop_options"),
    [("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})],
    ids=["asyncio", "asyncio+uvloop", "trio"],
)
def test_runtime_closes_itself_when_its_loop_ends(environment, backend, loop_options, midway):
    """Forgotten: with a warning. Being closed when the loop ends: completely, without one."""
    program = FORGOTTEN.replace("BACKEND", repr(backend)).replace("MIDWAY", str(midway))

    ran = run_program(program.replace("LOOP_OPTIONS", repr(loop_options)))

    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["closed"]
    assert told["threads"] == []
    if midway:
        assert told["warned"] == []
    else:
        assert len(told["warned"]) == 1
        assert "runtime was not closed" in told["warned"][0]


INTERRUPTED = """
async def serve():
    async with ajit.open_runtime(**SETTINGS) as rt:
        await rt.kernel(SPEC)
        started.set()
        await anyio.sleep_forever()

async def main():
    global started, task
    started = anyio.Event()
    task = asyncio.ensure_future(serve())
    await started.wait()

asyncio.run(main())
print([t.name for t in threading.enumerate() if t.name.startswith(("ajit-c", "AnyIO"))])
"""


def test_block_in_a_task_that_the_end_of_the_loop_cancels_is_left_without_a_warning(environment):
    """`asyncio.run` cancels the block's task and the runtime's own at the same time."""
    ran = run_program(INTERRUPTED)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "[]\n"


FORKED = """
async def main():
    rt = await ajit.start_runtime(**SETTINGS)
    block = ajit.open_runtime(**SETTINGS)
    await block.__aenter__()
    await rt.kernel(SPEC)
    child = os.fork()
    if child == 0:
        try:
            await rt.aclose()
            await block.__aexit__(None, None, None)
            os._exit(0 if "forked" in repr(rt) else 2)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    kernel = await rt.kernel(SPEC.with_(defines=(("N", "1"),)))
    await block.__aexit__(None, None, None)
    await rt.aclose()
    print(kernel.name)

anyio.run(main, backend=BACKEND)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_closing_in_a_forked_child_does_nothing(environment, backend):
    """By `aclose` and by the end of a block; the parent's runtimes go on."""
    ran = run_program(FORKED.replace("BACKEND", repr(backend)))

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["0", "saxpy"]


EAGER = """
async def main():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    rt = await ajit.start_runtime(**SETTINGS)
    print((await rt.kernel(SPEC)).name)
    await rt.aclose()
    async with ajit.open_runtime(**SETTINGS) as rt:
        print((await rt.kernel(SPEC)).name)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 brought eager tasks")
def test_tasks_that_begin_at_once_are_fine(environment):
    """The runtime's own task begins in the middle of the call that starts it."""
    ran = run_program(EAGER)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["saxpy", "saxpy"]


INTERRUPTED_BY_HAND = """
async def main():
    async with ajit.open_runtime(**SETTINGS) as rt:
        await rt.kernel(SPEC)
        os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep_forever()

try:
    anyio.run(main, backend=BACKEND, backend_options=LOOP_OPTIONS)
except KeyboardInterrupt:
    print([t.name for t in threading.enumerate()])
"""


@pytest.mark.parametrize(
    ("backend", "loop_options"),
    [("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})],
    ids=["asyncio", "asyncio+uvloop", "trio"],
)
def test_ctrl_c_closes_the_runtime_of_a_block(environment, backend, loop_options):
    """The program ends with KeyboardInterrupt, without a warning, and no thread is left."""
    program = INTERRUPTED_BY_HAND.replace("BACKEND", repr(backend))

    ran = run_program(program.replace("LOOP_OPTIONS", repr(loop_options)))

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "['MainThread']\n"


# --- patched threads ----------------------------------------------------------------------------

PATCHED = """
async def main(rt):
    await rt.kernel(SPEC)

async def by_hand():
    await ajit.start_runtime(**SETTINGS)

async def block():
    async with ajit.open_runtime(**SETTINGS):
        pass

def blocking():
    with ajit.open_blocking_runtime(**SETTINGS):
        pass

for call in (lambda: ajit.run(main, **SETTINGS), lambda: asyncio.run(by_hand()),
             lambda: asyncio.run(block()), blocking):
    try:
        call()
    except ajit.PatchedThreads as error:
        assert isinstance(error, ajit.UsageError)
        print(error.library, str(error))
"""

GEVENT = "from gevent import monkey\nmonkey.patch_all({switches})\n"
EVENTLET = (
    "import warnings\nwarnings.simplefilter('ignore')\n"
    "import eventlet\neventlet.monkey_patch({switches})\n"
)


@pytest.mark.parametrize(
    ("library", "patch", "switches", "named"),
    [
        ("gevent", GEVENT, "", "os, queue, select, subprocess, thread"),
        ("gevent", GEVENT, "thread=False", "os, queue, select, subprocess"),
        ("eventlet", EVENTLET, "", "os, select, subprocess, thread"),
        ("eventlet", EVENTLET, "thread=False", "os, select, subprocess"),
    ],
    ids=["gevent", "gevent-no-thread", "eventlet", "eventlet-no-thread"],
)
def test_patched_threads_are_refused(environment, library, patch, switches, named):
    """Every way to a runtime says so, and which parts are not to be patched; none hangs."""
    needs(library)

    ran = run_program(PATCHED, before=patch.format(switches=switches), flags=())

    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 4, ran.stdout + ran.stderr
    for line in lines:
        assert line.startswith(f"{library} {library} has replaced ")
        assert line.endswith(f"patch without {named}")


@pytest.mark.parametrize(
    ("library", "patch", "switches"),
    [
        (
            "gevent",
            GEVENT,
            "thread=False, queue=False, os=False, subprocess=False, select=False",
        ),
        ("eventlet", EVENTLET, "thread=False, os=False, select=False, subprocess=False"),
    ],
    ids=["gevent", "eventlet"],
)
def test_what_the_message_advises_works(environment, library, patch, switches):
    """A process whose threads are Python's own may have the rest patched."""
    needs(library)

    ran = run_program(
        "async def main(rt):\n    print((await rt.kernel(SPEC)).name)\najit.run(main, **SETTINGS)",
        before=patch.format(switches=switches),
        flags=(),
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "saxpy\n"
