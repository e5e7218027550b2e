"""The scripts behind `make setup`: which Python, which compilers, what is said if there is none.

The real thing, with every compiler hidden, is `make check-zig`, which takes minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
PLAIN_COMMANDS = ("bash", "chmod", "cat", "dirname", "env", "mkdir", "sh")


@pytest.fixture
def path(tmp_path):
    """A PATH with nothing on it but what the scripts are written in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in PLAIN_COMMANDS:
        (folder / name).symlink_to(shutil.which(name))
    return folder


def program(place, body):
    """Put a shell script somewhere."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!/bin/sh\n{body}\n")
    place.chmod(0o755)


def run(path, tool, *args, **environ):
    """Run a script with this PATH alone."""
    return subprocess.run(
        [TOOLS / tool, *args],
        cwd=path.parent,
        env={"PATH": str(path), "HOME": os.environ["HOME"]} | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_that_only_looks_like_python_is_passed_over(path):
    """Version managers leave commands on PATH that say that they are not installed."""
    program(path / "python3.13", "echo 'command not found' >&2; exit 127")
    program(path / "python3.12", 'case "$1" in -m) mkdir "$3";; *) echo "Python 3.12.9";; esac')

    done = run(path, "make-venv", ".venv")

    assert done.returncode == 0
    assert "Python 3.12.9" in done.stdout
    assert (path.parent / ".venv").is_dir()


def test_machine_without_a_new_enough_python_is_told_what_to_do(path):
    """The names that were tried, and how to name another."""
    program(path / "python3", "exit 1")

    done = run(path, "make-venv", ".venv")

    assert done.returncode == 1
    assert "no Python 3.11 or newer found" in done.stderr
    assert "PYTHON=" in done.stderr


def test_python_that_was_named_and_is_too_old_is_an_error(path):
    """PYTHON=... is not silently replaced by another one."""
    program(path / "python2", "exit 1")
    program(path / "python3", "exit 0")

    done = run(path, "make-venv", ".venv", "python2")

    assert done.returncode == 1
    assert "PYTHON=python2 is not a Python 3.11 or newer" in done.stderr


def test_compilers_of_the_system_are_used_where_there_are_both(path):
    """The first of the usual names."""
    program(path.parent / ".venv" / "bin" / "python", "exit 1")
    for name in ("gcc", "g++", "clang++"):
        program(path / name, "exit 0")

    done = run(path, "with-compilers", ".venv", "sh", "-c", 'echo "$CC $CXX"')

    assert done.stdout == "gcc g++\n"


def test_compilers_that_the_user_names_come_first(path):
    """CC and CXX of the environment are left as they are."""
    program(path.parent / ".venv" / "bin" / "python", "exit 1")

    done = run(
        path, "with-compilers", ".venv", "sh", "-c", 'echo "$CC $CXX"', CC="mycc", CXX="mycxx"
    )

    assert done.stdout == "mycc mycxx\n"


def test_machine_without_compilers_gets_the_zig_wheel_as_one(path):
    """Both parts are taken by wrappers that start the wheel's compiler."""
    python = path.parent / ".venv" / "bin" / "python"
    program(python, 'case "$1" in -c) exit 0;; *) echo "$@";; esac')
    program(path / "gcc", "exit 0")  # a C compiler alone is not enough

    done = run(path, "with-compilers", ".venv", "sh", "-c", '"$CC" -O2 a.c && "$CXX" b.cpp')

    assert done.stdout == "-m ziglang cc -O2 a.c\n-m ziglang c++ b.cpp\n"
