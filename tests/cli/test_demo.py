"""`ajit demo` hands over to the example in the source checkout, which has separate tests."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from ajit.cli import demo, exits
from ajit.cli.main import run as run_command_line


@pytest.fixture
def run_demo(capsys, monkeypatch):
    """Run the command in this process, where it must not get as far as to replace it."""
    monkeypatch.setattr(demo.os, "execv", lambda *_: pytest.fail("the demo was started"))

    def run(*args):
        before = signal.getsignal(signal.SIGTERM)
        try:
            return run_command_line(["demo", *args]), capsys.readouterr()
        finally:
            signal.signal(signal.SIGTERM, before)

    return run


def test_installed_package_says_that_the_demo_needs_the_source_checkout(
    run_demo, tmp_path, monkeypatch
):
    """A wheel has no examples; the command says where they are, to scripts as well."""
    monkeypatch.setattr(demo, "CHECKOUT", tmp_path)

    code, said = run_demo("--json")

    assert exits.ENVIRONMENT == code
    assert "part of the source checkout" in said.err
    assert "make demo" in said.err
    assert "Lacking" == json.loads(said.out)["error"]


def test_missing_packages_are_named_with_the_extra_that_has_them(run_demo, monkeypatch):
    """No traceback of an import deep inside the example."""
    monkeypatch.setattr(demo, "DEMO_PACKAGES", ("httpx", "no_such_package"))

    code, said = run_demo()

    assert (exits.ENVIRONMENT, "") == (code, said.out)
    assert "the demo needs no_such_package" in said.err
    assert "pip install 'ajit[examples]'" in said.err


def test_help_looks_like_that_of_the_other_commands(ajit):
    """The same shape, and nothing is started for it."""
    ended = ajit("demo", "--help")

    assert exits.FINE == ended.code
    assert ended.out.startswith("Usage: ajit demo [OPTIONS]")
    assert "Print one JSON object" in ended.out


@pytest.mark.parametrize(("given", "handed_over"), [([], []), (["--json"], ["--json"])])
def test_the_demo_takes_the_place_of_the_command(monkeypatch, given, handed_over):
    """With its own interpreter and the options that were given, in the checkout."""
    started = []
    monkeypatch.setattr(demo.os, "execv", lambda *args: started.append(args))
    monkeypatch.chdir(Path(demo.__file__).parent)

    demo.command.main(given, standalone_mode=False)

    command = [sys.executable, "-m", "examples.model_server.demo", *handed_over]
    assert [(sys.executable, command)] == started
    assert demo.CHECKOUT == Path.cwd()
