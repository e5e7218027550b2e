"""README and docs are true: their programs run, the commands exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
PROGRAMS = {
    f"{page.name}-{number}": text
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    )
}
COMMANDS = {
    command
    for language, text in BLOCKS
    if language != "python"
    for command in re.findall(r"^ajit (cache \w+|\w+)", text, re.MULTILINE)
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_program_of_a_page_runs(program, tmp_path):
    """Every Python text of README and docs, from the page into a file, with a GPU or without."""
    (tmp_path / "program.py").write_text(program)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("AJIT_")}
    environ |= {"PYTHONPATH": str(PROJECT), "AJIT_CACHE_DIR": str(tmp_path / "cache")}

    done = subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_program_of_the_page_about_the_log_writes_json(tmp_path):
    """Each line of standard error is one object, with ajit's fields, as the page shows it."""
    [program] = [text for text in PROGRAMS.values() if "class JsonLine" in text]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("AJIT_")}
    environ |= {"PYTHONPATH": str(PROJECT), "AJIT_CACHE_DIR": str(tmp_path / "cache")}
    environ |= {"AJIT_DEVICE": "cpu"}

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environ, capture_output=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    page = (PROJECT / "docs" / "logging.md").read_text()
    shown = [json.loads(line) for line in re.findall(r"^\{.*\}$", page, re.MULTILINE)]

    assert [line["phase"] for line in lines] == ["compiling", "compiled"]
    assert [list(line) for line in lines] == [list(line) for line in shown]


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
