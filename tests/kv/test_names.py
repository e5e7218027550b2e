"""What `ajit.kv` offers, and that asking for it costs nothing before it is used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ajit import kv

PROGRAM = """
import sys
import ajit.kv
loaded = [name for name in sys.modules if name.startswith(("ajit._gpu", "ajit.kv."))]
assert loaded == [], loaded
ajit.kv.Layout
assert "numpy" not in sys.modules
"""


def test_every_name_is_there():
    """Those that are promised, and no others."""
    assert all(getattr(kv, name) is not None for name in kv.__all__)
    assert dir(kv) == sorted(kv.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        kv.nothing  # noqa: B018  # asking for it is the test


def test_type_checkers_know_every_name():
    """They do not run what imports a name on its first use."""
    source = Path(kv.__file__).read_text()
    _, _, shown = source.partition("if TYPE_CHECKING:")
    names = re.findall(r"import (\w+) as \1$", shown, re.MULTILINE)

    assert sorted(names) == sorted([*kv.__all__, "events"])


def test_importing_has_no_effect():
    """Nothing of it is loaded before its first use, and numpy never."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
