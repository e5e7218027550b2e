"""docs/kv-service.md is true: its unit's command serves, its commands and fields exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ajit.cli.kv import command
from ajit.kv import Namespace
from ajit.kv.metrics import metrics_table

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "kv-service.md").read_text()
UNIT = re.search(r"^```ini\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[1]
COMMANDS = sorted(set(re.findall(r"(ajit kv (?:serve|status)(?: --[\w-]+(?: [\w./%-]+)?)*)", PAGE)))


def test_the_units_command_serves(tmp_path):
    """With the folder that systemd would make, and a supervisor that waits for READY."""
    folder = tmp_path / "ajit"
    folder.mkdir(mode=0o700)
    line = re.search(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)[1]
    words = shlex.split(line.replace("%t", str(tmp_path)))
    assert words[:3] == ["/usr/bin/env", "ajit", "kv"]
    arguments = [sys.executable, "-m", "ajit", *words[2:]]
    with subprocess.Popen(arguments, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as service:
        said = service.stdout.readline()
        service.terminate()
        code = service.wait(60)

    assert said == f"serving up to 64.0 GiB on {tmp_path}/ajit/kv.sock\n"
    assert code == 0
    assert "RuntimeDirectoryMode=0700" in UNIT


@pytest.mark.parametrize("line", COMMANDS)
def test_options_of_the_page_exist(line):
    """Each option of each command."""
    words = line.split()
    known = {name for each in command.commands[words[2]].params for name in each.opts}

    assert {word for word in words if word.startswith("--")} <= known


def test_single_options_of_the_page_exist():
    """Those that stand alone in the text are the service's, docker's or the kernel's."""
    known = {name for each in command.commands["serve"].params for name in each.opts}
    foreign = {"--shm-size", "--pid"}

    assert set(re.findall(r"`(--[\w-]+)", PAGE)) <= known | foreign


def test_the_table_of_a_namespace_is_complete():
    """A field that is added has its reason on the page."""
    missing = [field.name for field in fields(Namespace) if f"`{field.name}`" not in PAGE]

    assert missing == []


def test_the_table_of_metrics_is_the_one_of_the_service():
    """`ajit.kv.metrics.metrics_table()` writes it."""
    assert metrics_table() in PAGE
