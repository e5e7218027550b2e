"""`ajit doctor`: what was found where."""

from __future__ import annotations

import platform

from ajit.cli import exits


def checks_of(ended):
    """Check name to check."""
    return {check["name"]: check for check in ended.json()["checks"]}


def test_locks_of_the_cache_are_tried_by_another_process_and_nothing_is_left(ajit):
    """The cache's own file system is asked, with a lock that a second process tries to take."""
    ended = ajit("doctor", "--json")

    checks = checks_of(ended)
    assert checks["cache"]["found"] == str(ajit.cache_dir)
    assert checks["cache locks"]["found"] == "exclude another process"
    assert [] == [path for path in ajit.cache_dir.rglob("*") if path.is_file()]


def test_compilers_are_named_with_version_and_path(ajit):
    """NVRTC comes with the package, so it is always there."""
    nvrtc = checks_of(ajit("doctor", "--json"))["nvrtc"]

    assert nvrtc["status"] == "ok"
    assert nvrtc["found"].startswith("13.")
    assert "libnvrtc.so" in nvrtc["found"]


def test_compiler_that_is_missing_says_what_to_install(ajit):
    """A path that leads nowhere is a missing compiler; for the host compiler that is a problem."""
    ended = ajit("doctor", "--json", AJIT_HOST_COMPILER="/nowhere/c++", AJIT_NVCC="/nowhere/nvcc")

    checks = checks_of(ended)
    assert exits.PROBLEM == ended.code
    assert checks["host"]["status"] == "problem"
    assert "install g++" in checks["host"]["advice"]
    assert checks["nvcc"]["status"] == "absent"


def test_cache_that_others_may_write_to_is_a_problem_with_a_way_out(ajit):
    """The reason and the remedy stand beside the check."""
    ajit.cache_dir.mkdir()
    ajit.cache_dir.chmod(0o777)

    ended = ajit("doctor")

    assert exits.PROBLEM == ended.code
    assert "✗" in ended.out
    assert "chmod go-w" in ended.out


def test_devices_are_opened_as_a_runtime_would_and_absence_of_a_gpu_is_no_problem(ajit):
    """The CPU driver is always there; a GPU is found with its arch, or is merely absent."""
    checks = checks_of(ajit("doctor", "--json"))

    assert "ok" == checks["CPU driver"]["status"]
    assert platform.machine() in checks["CPU driver"]["found"]
    assert checks["GPU"]["status"] in ("ok", "absent")
    assert ("sm_" in checks["GPU"]["found"]) == (checks["GPU"]["status"] == "ok")
