"""The same where SIGCHLD is ignored, as in servers below some supervisors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_edits_are_seen_in_a_server_that_ignores_sigchld(compiler: str, tmp_path: Path) -> None:
    """A missing header, a good one, a half one, another, the first again, and none."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.stale.ignoring_main", compiler, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["same", "4"]
