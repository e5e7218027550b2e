"""`ajit doctor`: what was found where."""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ajit._cache.entries.disk import DiskStore
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.peer_probe import Raced
from ajit._compile.toolchains import places
from ajit._compile.toolchains.cuda_headers import CudaHeaders
from ajit._compile.toolchains.toolchains import Toolchain
from ajit._compile.worker import landlock
from ajit._core.key import ToolchainId
from ajit.cli import checks, exits
from ajit.cli.cache_checks import _check_raced
from tests.cli.test_cache import put as put_entry
from tests.cli.test_cache_lists import put


def checks_of(ended):
    """Check name to check."""
    return {check["name"]: check for check in ended.json()["checks"]}


def test_locks_of_the_cache_are_tried_by_another_process_and_nothing_is_left(ajit):
    """The cache's own file system is asked, with a lock that a second process tries to take."""
    ended = ajit("doctor", "--json")

    checks = checks_of(ended)
    assert checks["cache"]["found"] == str(ajit.cache_dir)
    assert checks["cache locks"]["found"] == "exclude another process of this machine"
    assert checks["cache leases"]["found"] == "by locks"
    left = [path.name for path in ajit.cache_dir.rglob("*") if path.is_file()]
    assert ["CACHEDIR.TAG"] == left


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


def test_whether_a_sandbox_can_be_made_is_told(ajit):
    """That it cannot is a problem only where one is asked for."""
    check = checks_of(ajit("doctor", "--json"))["sandbox"]
    wanted = checks_of(ajit("doctor", "--json", AJIT_SANDBOX="landlock"))["sandbox"]
    possible = not landlock.missing()

    assert check["status"] == ("ok" if possible else "absent")
    assert wanted["status"] == ("ok" if possible else "problem")


def test_cache_that_others_may_write_to_is_a_problem_with_a_way_out(ajit):
    """The reason and the remedy stand beside the check."""
    ajit.cache_dir.mkdir()
    ajit.cache_dir.chmod(0o777)

    ended = ajit("doctor")

    assert exits.PROBLEM == ended.code
    assert "✗" in ended.out
    assert "remove it" in ended.out


def test_devices_are_opened_as_a_runtime_would_and_absence_of_a_gpu_is_no_problem(ajit):
    """The CPU driver is always there; a GPU is found with its arch, or is merely absent."""
    checks = checks_of(ajit("doctor", "--json"))

    assert "ok" == checks["CPU driver"]["status"]
    assert platform.machine() in checks["CPU driver"]["found"]
    assert checks["GPU"]["status"] in ("ok", "absent")
    assert ("sm_" in checks["GPU"]["found"]) == (checks["GPU"]["status"] == "ok")


def test_leases_by_directory_say_what_they_rest_on_and_what_would_tell(ajit):
    """No more than is known: nothing was tried with another node."""
    checks = checks_of(ajit("doctor", "--json", AJIT_LEASE="directory"))

    assert checks["cache leases"]["found"] == "by directory"
    assert "mkdir" in checks["cache leases"]["advice"]
    assert "--with-peer" in checks["cache leases"]["advice"]


def test_two_doctors_race_what_excludes(ajit):
    """On one machine and one local disk all of it does; each says what leases rest on."""
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: ajit("doctor", "--with-peer", "--json"), range(2)))

    for ended in both:
        checks = checks_of(ended)
        assert checks["peer"]["found"]
        assert "20 of 20" in checks["peer: mkdir"]["found"]
        assert "leases rest on it" in checks["peer: fcntl"]["advice"]
        assert "ok" == checks["peer: rename away"]["status"]


def test_what_leases_rest_on_and_does_not_exclude_is_a_problem_with_the_way_out():
    """The same primitive is nothing to worry about where leases rest on another."""
    lets_both = Raced("fcntl", 3, 3)
    problem = _check_raced(lets_both, "fcntl", {"mkdir"})
    absent = _check_raced(lets_both, "mkdir", {"mkdir"})
    missing = _check_raced(Raced("flock", 3, 0, "ENOLCK"), "mkdir", set())

    assert ("problem", "absent", "absent") == (problem.status, absent.status, missing.status)
    assert "AJIT_LEASE=directory would do" in problem.advice
    assert "both at once in 3 of 3" in problem.found
    assert "ENOLCK" in missing.found


def layer_checks(ended):
    """What was found of each layer, in their order: status and the whole line."""
    checks = [check for check in ended.json()["checks"] if check["name"] == "cache layer"]
    return [(check["status"], f"{check['found']} {check['advice']}") for check in checks]


def test_each_layer_is_checked(ajit, tmp_path):
    """Whether it is a cache that can be read and trusted, how many entries, which file system."""
    good, unsafe, other = (tmp_path / name for name in ("good", "unsafe", "other"))
    put(open_cache_directory(good))
    open_cache_directory(unsafe)
    unsafe.chmod(0o777)
    other.mkdir()
    (other / "passwd").touch()
    layers = [good, tmp_path / "missing", unsafe, other]

    ended = ajit("doctor", "--json", AJIT_CACHE_LAYERS=":".join(map(str, layers)))
    checked = layer_checks(ended)
    cache = checks_of(ended)["cache"]

    assert exits.PROBLEM == ended.code
    assert ["ok", "problem", "problem", "problem"] == [status for status, _ in checked]
    for path, (_, text) in zip(layers, checked, strict=True):
        assert str(path) in text
    assert "1 entry, " in checked[0][1]
    assert "No such file" in checked[1][1]
    assert "other users may write to it" in checked[2][1]
    assert "it has passwd" in checked[3][1]
    assert all("AJIT_CACHE_LAYERS" in text for _, text in checked[1:])
    assert "what no layer has" in cache["advice"]


def test_a_cache_without_layers_says_nothing_of_them(ajit):
    """Nothing is to be known."""
    ended = ajit("doctor", "--json")

    assert [] == layer_checks(ended)
    assert "" == checks_of(ended)["cache"]["advice"]


def test_entries_that_the_compilers_here_can_use_are_counted(ajit):
    """Others are of other compilers, of builds, or bad; where none is left, that is a warning."""
    store = DiskStore(open_cache_directory(ajit.cache_dir))
    source = ajit.folder / "k.cu"
    source.write_text('extern "C" __global__ void k(int* x) { *x = 1; }')
    foreign = put_entry(store, "foreign", fields=(("compiler", "nvrtc"), ("toolchain", "ab" * 32)))
    only_foreign = checks_of(ajit("doctor", "--json"))["cache entries"]
    ajit("compile", source, "--entry", "k", "--arch", "sm_90a")
    put_entry(store, "build", fields=(("schema", "build 1.1"),))
    bad = ajit.cache_dir / "entries" / "ab" / f"{'ab' * 32}.ajit"
    bad.parent.mkdir(exist_ok=True)
    bad.write_bytes(b"no entry")

    mixed = checks_of(ajit("doctor", "--json"))["cache entries"]

    assert only_foreign["status"] == "warning"
    assert "0 made by the compilers found here, 1 by others" in only_foreign["found"]
    assert mixed["status"] == "ok"
    for part in ("4 entries: 1 made by", "1 by others", "1 by builds", "1 that do not verify"):
        assert part in mixed["found"]
    assert "--unusable" in mixed["advice"]
    pruned = ajit("cache", "prune", "--unusable", "--dry-run", "--json").json()["removed"]
    # What was made just now is kept, unless it is bad.
    assert [item["reason"] for item in pruned] == ["does not verify"]
    os.utime(ajit.cache_dir / "entries" / foreign[:2] / f"{foreign}.ajit", (1, 1))
    pruned = ajit("cache", "prune", "--unusable", "--dry-run", "--json").json()["removed"]
    assert sorted(foreign in item["file"] for item in pruned) == [False, True]


def test_headers_of_another_release_than_nvrtc_are_a_warning(monkeypatch):
    """Both are named, and how to get a pair."""
    headers = CudaHeaders(("/inc",), (13, 1), "3.1.0")
    monkeypatch.setattr(checks, "find_cuda_headers", lambda _release: headers)
    nvrtc = Toolchain(
        kind="nvrtc", version="13.5.37", path="/x", command=("/x",), include_dirs=("/inc",),
        identity=ToolchainId("nvrtc", "13.5.37", "ab"),
    )  # fmt: skip

    told = checks._check_headers(nvrtc)
    same = checks._check_headers(replace(nvrtc, version="13.1.2"))

    assert told.status == "warning"
    assert "cudart 13.1" in told.found
    assert "13.5" in told.advice
    assert (same.status, same.advice) == ("ok", "")


@pytest.mark.parametrize(
    ("machine", "targets"),
    [("x86_64", ["x86_64-linux"]), ("aarch64", ["sbsa-linux", "aarch64-linux"]), ("riscv64", [])],
)
def test_cuda_is_looked_for_under_the_name_of_this_machine(monkeypatch, tmp_path, machine, targets):
    """Conda has headers and libraries in `targets/`; on ARM servers it is not x86's."""
    for name in ("x86_64-linux", "sbsa-linux", "aarch64-linux"):
        (tmp_path / "targets" / name).mkdir(parents=True)
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path))
    monkeypatch.setattr(places.platform, "machine", lambda: machine)

    found = [root for root in places.cuda_roots() if root.startswith(str(tmp_path))]

    assert found == [str(tmp_path), *(f"{tmp_path}/targets/{name}" for name in targets)]
