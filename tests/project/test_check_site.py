"""The check of the docs' site finds what it is there for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "tools" / "check_site.py"
PAGE = (
    '<h1 id="top">a</h1><a href="b.html#there">b</a><a href="#top">a</a>'
    '<script src="a.js"></script>'
)


@pytest.fixture
def site(tmp_path):
    """Two pages that are right."""
    (tmp_path / "a.html").write_text(PAGE)
    (tmp_path / "b.html").write_text('<p id="there"></p><a href="https://example.org/">e</a>')
    (tmp_path / "a.js").write_text("")
    return tmp_path


def check(site):
    """Its exit code, and what it prints."""
    done = subprocess.run(
        [sys.executable, CHECK, site], check=False, capture_output=True, text=True
    )
    return done.returncode, done.stdout


def test_right_site_passes(site):
    """Links to other hosts may be there; nothing is loaded from them."""
    assert check(site) == (0, "2 pages: every link leads somewhere\n")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ('<a href="c.html">c</a>', "c.html leads nowhere"),
        ('<a href="b.html#nowhere">b</a>', "b.html#nowhere leads nowhere"),
        ('<a href="#nowhere">b</a>', "#nowhere leads nowhere"),
        ('<img src="c.png">', "c.png leads nowhere"),
        ('<script src="https://cdn.example/x.js"></script>', "loads https://cdn.example/x.js"),
        ('<link rel="stylesheet" href="//fonts.example/f">', "loads //fonts.example/f"),
    ],
)
def test_wrong_page_is_named(site, wrong, complaint):
    """With what is wrong there."""
    (site / "a.html").write_text(PAGE + wrong)

    assert check(site) == (1, f"a.html: {complaint}\n")


def test_style_that_loads_a_font_is_named(site):
    """From another host."""
    (site / "s.css").write_text("@font-face { src: url(https://fonts.example/f.woff2) }")
    code, text = check(site)

    assert code == 1
    assert text.startswith("s.css: loads url(https://fonts.example")


def test_empty_folder_is_no_site(tmp_path):
    """A build that wrote nothing does not pass."""
    assert check(tmp_path)[0] == 1
