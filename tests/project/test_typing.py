"""A user's program passes mypy --strict and pyright, but for the lines that are meant not to."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("typed_program.py")
EXPECTED = [
    number
    for number, line in enumerate(PROGRAM.read_text().splitlines(), 1)
    if line.endswith("  # error")
]
CHECKERS = {
    "mypy": ["mypy", "--strict", "--config-file=", "--cache-dir={tmp}"],
    "pyright": ["pyright", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_users_program_is_typed(checker, tmp_path):
    """A misspelt setting and a wrong type are errors; the rest has the types that it asserts."""
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    command = [part.format(tmp=tmp_path) for part in CHECKERS[checker]]

    ran = subprocess.run(
        [sys.executable, "-m", *command, str(PROGRAM)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"typed_program\.py:(\d+):(?:\d+)?[ -]*error", ran.stdout)

    assert EXPECTED == sorted(map(int, found)), ran.stdout + ran.stderr
