"""A build that is a Python function: called in a process of its own, kept under its own source."""

from __future__ import annotations

import os
import py_compile
import sys

import pytest

import ajit

pytestmark = pytest.mark.anyio

MODULE = """
import json
from {package}.text import TEXT

def make(name, values, raw=b"", nothing=None):
    with open(name, "w") as file:
        json.dump([TEXT, values, len(raw), nothing], file)

def fail(**_):
    print("on the way")
    raise ValueError("no such shape: 7")

def leave():
    raise SystemExit(4)
"""


@pytest.fixture
def options(options, tmp_path):
    """The same, with the views in the test's own folder."""
    return {**options, "views_dir": str(tmp_path / "views")}


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """A package on this process's import path, of a name of its own; written long ago."""
    name = f"package_{os.getpid()}_{abs(hash(request.node.name))}"
    folder = tmp_path / "site" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "text.py").write_text("TEXT = 'one'\n")
    (folder / "maker.py").write_text(MODULE.format(package=name))
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder.parent)])
    return folder


def call(package, function="make", arguments=None, **more):
    """The build that calls a function of the package."""
    given = {"name": "out.json", "values": [1, 2.5, "x"]} if arguments is None else arguments
    run = ajit.Call(f"{package.name}.maker:{function}", given)
    return ajit.Build("called", run, ["out.json"], **more)


async def built(options, build):
    """Build in a runtime of its own; return tier and text."""
    async with ajit.open_runtime(**options) as runtime:
        bundle = await runtime.build(build)
        return bundle.tier, (await bundle.materialize() / "out.json").read_text()


async def test_function_is_called_with_its_arguments(options, package):
    """Once; what it wrote is the bundle."""
    arguments = {"name": "out.json", "values": {"a": [1, None]}, "raw": b"\0\1"}
    first = await built(options, call(package, arguments=arguments))
    second = await built(options, call(package, arguments=arguments))

    assert first == ("compiled", '["one", {"a": [1, null]}, 2, null]')
    assert second == ("disk", first[1])


@pytest.mark.parametrize("cached", [True, False], ids=["bytecode", "sources"])
async def test_edited_module_runs_it_again(options, package, cached):
    """That of the function's imports as well, whether their bytecode is cached or not."""
    if cached:
        for name in ("__init__", "text", "maker"):
            py_compile.compile(str(package / f"{name}.py"))
    before = await built(options, call(package))
    (package / "text.py").write_text("TEXT = 'two'\n")
    os.utime(package / "text.py", (2, 2))
    after = await built(options, call(package))

    assert before == ("compiled", '["one", [1, 2.5, "x"], 0, null]')
    assert after == ("compiled", '["two", [1, 2.5, "x"], 0, null]')


async def test_bytecode_that_is_written_anew_changes_nothing(options, package):
    """A list has the sources: an installation that was compiled meanwhile shares the bundle."""
    before = await built(options, call(package))
    for name in ("__init__", "text", "maker"):
        py_compile.compile(str(package / f"{name}.py"))
    after = await built(options, call(package))

    assert (before[0], after[0]) == ("compiled", "disk")


async def test_function_that_raises_is_a_compile_error(options, package):
    """Its last line comes first, then the traceback and what it printed."""
    async with ajit.open_runtime(**options) as runtime:
        with pytest.raises(ajit.CompileError) as raised:
            await runtime.build(call(package, "fail", {}))
        with pytest.raises(ajit.CompileError):
            await runtime.build(call(package, "leave", {}))

    assert raised.value.log.splitlines()[0] == "ValueError: no such shape: 7"
    assert "Traceback" in raised.value.log
    assert "on the way" in raised.value.log


@pytest.mark.parametrize("function", ["no_such_package.x:y", "json:no_such_function"])
async def test_function_that_is_not_there_is_a_compile_error(options, function):
    """With its name."""
    build = ajit.Build("x", ajit.Call(function), ["*"])
    async with ajit.open_runtime(**options) as runtime:
        with pytest.raises(ajit.CompileError, match=r"no_such_"):
            await runtime.build(build)


async def test_libraries_of_an_extension_module_are_read(options, package, tmp_path):
    """The dynamic loader maps them, unseen by the recorder: they are in the key all the same."""
    (package / "maker.py").write_text(
        "import ctypes\n"
        "def make(library):\n"
        "    open('out.json', 'w').write(str(ctypes.CDLL(library).answer()))\n"
    )
    os.utime(package / "maker.py", (1, 1))
    answers = []
    for answer in (1, 2):
        library = await make_library(options, tmp_path, answer)
        answers.append(await built(options, call(package, arguments={"library": library})))

    assert answers == [("compiled", "1"), ("compiled", "2")]


async def make_library(options, tmp_path, answer):
    """Put a library at a path, over the former one."""
    source = f"int answer(void) {{ return {answer}; }}"
    command = ajit.Command(["cc", "-shared", "-o", "a.so", "a.c"], files={"a.c": source})
    async with ajit.open_runtime(**options) as runtime:
        bundle = await runtime.build(ajit.Build("library", command, ["a.so"]))
        made = (await bundle.materialize() / "a.so").read_bytes()
    fresh = tmp_path / "fresh.so"
    fresh.write_bytes(made)
    os.utime(fresh, (answer, answer))
    fresh.rename(tmp_path / "library.so")
    return str(tmp_path / "library.so")


def test_call_is_data():
    """No closure, no pickle: what cannot be written as MessagePack is refused at once."""
    with pytest.raises(ajit.SpecError, match="sent to another process"):
        ajit.Call("a:b", {"f": lambda: None})
    with pytest.raises(ajit.SpecError, match="no other process can import it"):
        ajit.Call("__main__:f")
    assert ajit.Call("a:b", {"x": 1, "y": 2}) == ajit.Call("a:b", {"y": 2, "x": 1})
