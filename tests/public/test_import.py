"""Importing ajit has no effect, costs little, and still gives every public name."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ajit

PROJECT = Path(__file__).parents[2]

LOOK_AROUND = """
import json, os, sys, threading
report = {
    "modules": sorted(sys.modules),
    "threads": [thread.name for thread in threading.enumerate()],
    "tasks": len(os.listdir("/proc/self/task")),
    "open": sorted(os.listdir("/proc/self/fd")),
    "environ": dict(os.environ),
    "handlers": [],
}
import logging, signal, warnings
report["handlers"] = [str(handler) for handler in logging.getLogger().handlers]
report["signals"] = [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())]
print(json.dumps(report))
"""


def in_new_process(program: str, home: Path) -> dict[str, object]:
    """The state of a fresh interpreter after a program; its home and directory are empty."""
    environ = {
        "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(PROJECT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    printed = subprocess.check_output(
        [sys.executable, "-W", "error", "-c", program + LOOK_AROUND],
        env=environ, cwd=home, timeout=60,
    )  # fmt: skip
    return json.loads(printed)


def test_import_loads_nothing_heavy(tmp_path):
    """Neither CUDA, nor an event loop, nor NumPy, nor the command line, nor ajit's own parts."""
    modules = in_new_process("import ajit", tmp_path)["modules"]
    packages = {name.partition(".")[0] for name in modules}
    heavy = {"anyio", "asyncio", "trio", "uvloop", "numpy", "cuda", "ctypes", "msgspec", "click",
             "rich", "subprocess", "multiprocessing", "concurrent"}  # fmt: skip

    assert packages & heavy == set()
    assert [name for name in modules if name.partition(".")[0] == "ajit"] == ["ajit"]


def test_import_has_no_effect(tmp_path):
    """No thread, descriptor, handler or variable more than without it, and no directory made."""
    without, with_ajit = in_new_process("", tmp_path), in_new_process("import ajit", tmp_path)

    for what in ("threads", "tasks", "open", "environ", "handlers", "signals"):
        assert with_ajit[what] == without[what]
    assert list(tmp_path.iterdir()) == []


def test_ground_needs_neither_a_loop_nor_a_device(tmp_path):
    """Making a spec and catching an error in a program without a server stays cheap."""
    program = "import ajit; ajit.Spec('int k;', 'k'); ajit.CompileError; ajit.Settings"
    modules = in_new_process(program, tmp_path)["modules"]

    assert {"anyio", "asyncio", "trio", "cuda", "numpy", "ctypes"} & set(modules) == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "home"), ajit._HOMES.items())
def test_public_name_resolves(name, home):
    """Each lazy name is what its module has, and is looked up once."""
    if importlib.util.find_spec(home) is None:
        pytest.skip(f"{home} is not written yet")
    value = getattr(ajit, name)

    assert value is getattr(importlib.import_module(home), name)
    assert vars(ajit)[name] is value
    assert name in dir(ajit)


def test_every_public_name_has_a_type():
    """A type checker sees what is looked up lazily."""
    source = (PROJECT / "ajit" / "__init__.py").read_text()
    declared = source.partition("if TYPE_CHECKING:")[2].partition("__version__")[0]

    assert [name for name in ajit._HOMES if f" import {name} as {name}\n" not in declared] == []


@pytest.mark.parametrize("module", ["errors", "settings"])
def test_public_modules_are_attributes(module, tmp_path):
    """`except ajit.errors.CompileError` works at once, not only after a first error."""
    report = in_new_process(
        f"import ajit; assert ajit.{module}.__name__ == 'ajit.{module}'", tmp_path
    )

    assert f"ajit.{module}" in report["modules"]


@pytest.mark.parametrize("name", ["kernels", "__path", "__wrapped__", "_runtime_", "asyncio"])
def test_other_names_are_attribute_errors(name):
    """With the name, as for every module."""
    with pytest.raises(AttributeError, match=name):
        getattr(ajit, name)


def test_version_is_one():
    """The package says the version that its metadata is made from."""
    assert ajit.__version__.count(".") == 2


def test_package_is_typed():
    """Type checkers use the annotations."""
    assert (PROJECT / "ajit" / "py.typed").is_file()
