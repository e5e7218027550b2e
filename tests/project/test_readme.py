"""What the README shows is true: its programs run, its fragments parse, its commands exist."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
PROGRAMS = [text for text in PYTHON if "anyio.run(" in text]
FRAGMENTS = [text for text in PYTHON if text not in PROGRAMS]
COMMANDS = {
    command
    for language, text in BLOCKS
    if language != "python"
    for command in re.findall(r"^ajit (cache \w+|\w+)", text, re.MULTILINE)
}


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_program_of_the_readme_runs(program, tmp_path):
    """From the page into a file, on a machine with a GPU or without."""
    (tmp_path / "program.py").write_text(program)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("AJIT_")}
    environ |= {"PYTHONPATH": str(PROJECT), "AJIT_CACHE_DIR": str(tmp_path / "cache")}

    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=range(len(FRAGMENTS)))
def test_fragment_of_the_readme_is_python(fragment):
    """What stands for itself on the page parses inside a coroutine."""
    ast.parse("async def main():\n" + textwrap.indent(fragment, "    "))


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_command_of_the_readme_exists(command):
    """Each `ajit ...` on the page has a help text."""
    done = subprocess.run(
        [sys.executable, "-m", "ajit", *command.split(), "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def test_targets_of_the_readme_exist():
    """Each `make ...` on the page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))

    assert named
    assert named <= targets
