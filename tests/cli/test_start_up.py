"""What each command imports and starts: the time of a start is the time of its imports."""

from __future__ import annotations

import json
import textwrap

import pytest

from ajit.cli import cache, main
from tests.cli.test_compile import FOR_GPU

SOURCE = 'extern "C" __global__ void k(int* x) { *x = 1; }'

LOOP = {"asyncio", "trio", "anyio._backends"}
NEVER = {"cuda.bindings", "cuda.core", "numpy", "torch"}
DRAWING = {"rich.console", "rich.table", "rich.text"}
RUNTIME = {"ajit._runtime", "ajit._resolve", "ajit._gpu", "ajit._compile.pool"}
COMPILERS = {"ajit._compile", "cuda.pathfinder", "importlib.metadata"}
CHANGING = {"ajit._cache.entries.collector", "ajit._cache.entries.archive", "ajit._cache.leases"}
ENTRIES = {"ajit._cache.entries.disk"}

WITHOUT = {
    ("--help",): NEVER | LOOP | DRAWING | RUNTIME | COMPILERS | CHANGING | ENTRIES | {"msgspec"},
    ("--version",): NEVER | LOOP | DRAWING | RUNTIME | COMPILERS | CHANGING | ENTRIES | {"msgspec"},
    ("cache", "--help"): NEVER | LOOP | DRAWING | RUNTIME | COMPILERS | CHANGING | ENTRIES,
    ("cache", "path"): NEVER | LOOP | DRAWING | RUNTIME | COMPILERS | CHANGING,
    ("cache", "ls"): NEVER | LOOP | DRAWING | RUNTIME | COMPILERS | CHANGING,
    ("cache", "ls", "--json"): NEVER | LOOP | DRAWING | RUNTIME | COMPILERS | CHANGING,
    ("cache", "stats"): NEVER | LOOP | DRAWING | RUNTIME | COMPILERS,
    ("cache", "verify"): NEVER | LOOP | DRAWING | RUNTIME | COMPILERS,
    ("config",): NEVER | LOOP | DRAWING | RUNTIME | COMPILERS | CHANGING | ENTRIES,
    ("doctor",): NEVER | DRAWING | RUNTIME - {"ajit._gpu"},
}
"""What must not be imported. A new import of a command has a reason, and is taken out here."""

HOOK = """
    import atexit, json, os, sys

    started = []

    def heard(event, arguments):
        if event in ("subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn"):
            started.append(event)

    def tell(path=os.environ.pop("AJIT_TELL_IMPORTS", "")):
        if path:
            with open(path, "w") as file:
                json.dump({"modules": sorted(sys.modules), "started": started}, file)

    sys.addaudithook(heard)
    atexit.register(tell)
"""


@pytest.fixture
def report(ajit):
    """Run a command; return what it had imported at its end, and what it had started."""
    (ajit.folder / "sitecustomize.py").write_text(textwrap.dedent(HOOK))
    path = f"{ajit.folder}:{ajit.environ['PYTHONPATH']}"

    def run(*command):
        file = ajit.folder / "imports.json"
        ended = ajit(*command, PYTHONPATH=path, AJIT_TELL_IMPORTS=str(file))
        assert ended.code in (0, 1), ended.err
        return json.loads(file.read_text())

    return run


def of(modules, packages):
    """The modules that belong to some packages."""
    return [
        name
        for name in modules
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    ]


@pytest.fixture
def kernel(ajit):
    """A kernel that is in the cache; how it is compiled."""
    (ajit.folder / "k.cu").write_text(SOURCE)
    command = ("compile", "k.cu", "--entry", "k", *FOR_GPU)
    assert ajit(*command).code == 0
    return command


@pytest.mark.parametrize("command", WITHOUT, ids=" ".join)
def test_a_command_imports_only_what_it_needs(report, kernel, command):
    """In a pipe nothing is drawn; what looks at a cache has neither loop, compiler nor device."""
    modules = report(*command)["modules"]

    assert of(modules, WITHOUT[command]) == []


def test_a_kernel_that_is_on_disk_starts_no_process_and_loads_no_device(report, kernel):
    """Neither a worker nor a compiler that is asked for its version; and no CUDA."""
    told = report(*kernel)

    assert told["started"] == []
    assert of(told["modules"], NEVER | DRAWING | {"ajit._gpu.device", "cuda.pathfinder"}) == []


def test_the_hook_sees_what_is_started(report, kernel):
    """A kernel that is not there needs a worker: else the test above would see nothing."""
    assert report(*kernel, "-D", "N=2")["started"] != []


@pytest.mark.parametrize("group", [main._Commands, cache._Commands], ids=["ajit", "ajit cache"])
def test_lines_of_help_are_those_of_the_commands(group):
    """They are written twice, so that help need not import the commands."""
    commands = group(name="x")

    assert list(group.lines) == list(group.places)
    for name in group.lines:
        command = commands.get_command(None, name)
        assert command is not None
        assert command.name == name
    assert commands.get_command(None, "nothing") is None
