"""The page about testing is true: its tests run, and fail as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
FILES = dict(
    re.findall(r'^```python title="(\w+\.py)"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE)
)


def test_tests_of_the_page_pass(pytester):
    """On each event loop, as a user would copy them."""
    for name, text in FILES.items():
        pytester.makepyfile(**{name.removesuffix(".py"): text})
    pytester.makeini("[pytest]\najit_loops = asyncio uvloop trio\nfilterwarnings = error\n")
    result = pytester.runpytest_subprocess(
        *("-p", "no:cacheprovider", "-p", "no:asyncio", "--strict-markers", *FILES),
        *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
    )

    assert set(FILES) == {"test_scale.py", "test_warm.py", "test_fakes.py"}
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()


def test_page_names_every_fake_fixture_and_option():
    """One that is added has to be added there."""
    from ajit import testing
    from ajit.testing import plugin

    fakes = [name for name in testing.__all__ if name.startswith("Fake")]
    options = re.findall(r'addini\(\s*"(\w+)"', Path(plugin.__file__).read_text())

    assert len(options) == 3
    assert [name for name in [*fakes, *plugin.__all__, *options] if f"`{name}" not in PAGE] == []
