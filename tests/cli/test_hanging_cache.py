"""Commands on a cache whose file system hangs say so, and end."""

from __future__ import annotations

import time

import pytest

from tests.fuse.mounts import Mount, why_no_fuse

NO_FUSE = why_no_fuse()
pytestmark = pytest.mark.skipif(bool(NO_FUSE), reason=NO_FUSE)

KEY = "0123456789abcdef"


@pytest.fixture
def stopped(tmp_path):
    """A cache on a file system whose server is stopped."""
    with Mount(tmp_path / "fuse") as mount:
        cache_dir = mount.path / "cache"
        cache_dir.mkdir(mode=0o700)
        mount.stop()
        yield cache_dir


@pytest.mark.parametrize(
    "command",
    [
        ["cache", "ls"],
        ["cache", "stats"],
        ["cache", "verify"],
        ["cache", "inspect", KEY],
        ["cache", "why", KEY, KEY],
        ["cache", "rm", "--all"],
        ["cache", "prune"],
        ["locks"],
        ["log"],
    ],
    ids=" ".join,
)
def test_command_on_a_cache_that_hangs_says_so_and_ends(ajit, stopped, command):
    """Exit code 4, the environment's, with the directory and what to try."""
    begun = time.monotonic()
    ended = ajit(*command, "--json", AJIT_CACHE_DIR=str(stopped), AJIT_PATIENCE_SECONDS="1")

    assert ended.code == 4
    assert ended.json()["error"] == "CacheError"
    assert ended.json()["path"] == str(stopped)
    assert "does not answer" in ended.err
    assert time.monotonic() - begun < 20.0


def test_doctor_says_that_the_cache_does_not_answer(ajit, stopped):
    """The other checks are made."""
    ended = ajit("doctor", "--json", AJIT_CACHE_DIR=str(stopped), AJIT_PATIENCE_SECONDS="1")
    checks = {check["name"]: check for check in ended.json()["checks"]}

    assert ended.code == 1
    assert checks["cache"]["status"] == "problem"
    assert "does not answer" in checks["cache"]["advice"]
    assert "nvrtc" in checks


def test_path_of_a_cache_that_hangs_is_known_without_it(ajit, stopped):
    """It is a setting."""
    assert ajit("cache", "path", AJIT_CACHE_DIR=str(stopped)).out.strip() == str(stopped)


def test_compile_on_a_cache_that_hangs_is_partly_done(ajit, stopped, tmp_path):
    """The kernel is compiled and not stored: exit code 3."""
    source = tmp_path / "k.cu"
    source.write_text('extern "C" __global__ void k(float* x) { x[0] = 1; }')
    options = ["--entry", "k", "--arch", "sm_90a", "--json"]
    environ = {"AJIT_CACHE_DIR": str(stopped), "AJIT_PATIENCE_SECONDS": "1"}
    ended = ajit("compile", source, *options, **environ)

    assert ended.code == 3
    assert ended.json()["stored"] is False
    assert "does not answer" in ended.err
