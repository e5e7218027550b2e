"""`ajit demo` hands over to the example in the source checkout, which has tests of its own."""

from __future__ import annotations

from ajit.cli import exits
from tests.cli.conftest import PROJECT


def test_installed_package_says_that_the_demo_needs_the_source_checkout(ajit, tmp_path):
    """A wheel has no examples; the command says where they are."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "ajit").symlink_to(PROJECT / "ajit")

    ended = ajit("demo", PYTHONPATH=str(site))

    assert exits.ENVIRONMENT == ended.code
    assert "part of the source checkout" in ended.err
    assert "make demo" in ended.err


def test_options_go_to_the_demo(ajit):
    """`--help` shows the demo's own options."""
    ended = ajit("demo", "--help")

    assert exits.FINE == ended.code
    assert "usage" in ended.out.lower()
