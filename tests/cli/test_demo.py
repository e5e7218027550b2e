"""`ajit demo` hands over to the example in the source checkout, which has tests of its own."""

from __future__ import annotations

import pytest

from ajit.cli import demo, exits


@pytest.fixture
def run_demo(capsys):
    """Run the command in this process, where it must not get as far as to replace it."""

    def run(*args):
        code = demo.command.main(args, standalone_mode=False)
        return code, capsys.readouterr().err

    return run


def test_installed_package_says_that_the_demo_needs_the_source_checkout(
    run_demo, tmp_path, monkeypatch
):
    """A wheel has no examples; the command says where they are."""
    monkeypatch.setattr(demo, "CHECKOUT", tmp_path)

    code, said = run_demo()

    assert exits.ENVIRONMENT == code
    assert "part of the source checkout" in said
    assert "make demo" in said


def test_missing_packages_are_named_with_the_extra_that_has_them(run_demo, monkeypatch):
    """No traceback of an import deep inside the example."""
    monkeypatch.setattr(demo, "DEMO_PACKAGES", ("httpx", "no_such_package"))

    code, said = run_demo()

    assert exits.ENVIRONMENT == code
    assert "the demo needs no_such_package" in said
    assert "pip install 'ajit[examples]'" in said


def test_options_go_to_the_demo(ajit):
    """`--help` shows the demo's own options."""
    ended = ajit("demo", "--help")

    assert exits.FINE == ended.code
    assert ended.out.startswith("usage: ajit demo")
    assert "--json" in ended.out
