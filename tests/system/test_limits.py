"""CPUs and memory of this process, read from trees of files that look like a machine's."""

from __future__ import annotations

import os

import pytest

from ajit._system.limits import available_cpus, available_memory_bytes, memory_limit_bytes

MIB = 1024 * 1024
UNLIMITED_V1 = 9223372036854771712
MEMINFO = "MemTotal:  8192000 kB\nMemFree:  100 kB\nMemAvailable:  4096000 kB\n"
V2 = "31 23 0:28 {top} /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n"
V1 = "32 31 0:29 {top} /sys/fs/cgroup/{name} rw shared:9 - cgroup cgroup rw,{name}\n"


@pytest.fixture(autouse=True)
def many_cpus(monkeypatch):
    """A machine with 192 CPUs, for tests that run anywhere."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(192)))


@pytest.fixture
def machine(tmp_path):
    """Write files below a directory that stands for the root, and return it."""

    def write(files):
        for name, text in {"proc/meminfo": MEMINFO, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def unified(own, top="/", **files):
    """A version 2 tree: files by their path below the mount point."""
    return {
        "proc/self/cgroup": f"0::{own}\n",
        "proc/self/mountinfo": V2.format(top=top),
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }


def test_a_machine_without_cgroups_is_its_own_limit(tmp_path, machine):
    """No /sys/fs/cgroup, and not even a /proc: nothing limits, nothing raises."""
    assert available_cpus(tmp_path) == 192
    assert memory_limit_bytes(tmp_path) == 0
    assert available_memory_bytes(tmp_path) is None

    root = machine({})

    assert memory_limit_bytes(root) == 8000 * MIB
    assert available_memory_bytes(root) == 4000 * MIB


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("200000 100000", 2),
        ("250000 100000", 2),  # rounded down: the rest is the server's
        ("50000 100000", 1),  # but never to none
        ("max 100000", 192),
        ("99999999 100000", 192),
        ("", 192),
        ("nonsense here", 192),
        ("100000 0", 192),
    ],
)
def test_the_cpu_quota_of_a_container_counts(machine, quota, expected):
    """Two CPUs of a host with 192 are two."""
    root = machine(unified("/", **{"cpu.max": f"{quota}\n"}))

    assert available_cpus(root) == expected


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3), ("-1", 192)])
def test_version_1_says_it_in_other_files(machine, quota, expected):
    """-1 is no quota; the controllers of one line share a directory."""
    root = machine(
        {
            "proc/self/cgroup": "5:name=systemd:/x\n3:cpu,cpuacct:/pod/app\n0::/\n",
            "proc/self/mountinfo": V1.format(top="/", name="cpu"),
            "sys/fs/cgroup/cpu/pod/app/cpu.cfs_quota_us": f"{quota}\n",
            "sys/fs/cgroup/cpu/pod/app/cpu.cfs_period_us": "100000\n",
        }
    )

    assert available_cpus(root) == expected


def test_every_group_on_the_way_up_limits(machine):
    """The pod's limit counts for its containers, whatever theirs is."""
    root = machine(
        unified(
            "/pod/app",
            **{
                "pod/app/cpu.max": "max 100000",
                "pod/cpu.max": "400000 100000",
                "pod/app/memory.max": "max",
                "pod/memory.max": str(1000 * MIB),
                "pod/memory.current": str(900 * MIB),
                "pod/memory.stat": f"anon 5\ninactive_file {300 * MIB}\nactive_file 7\n",
            },
        )
    )

    assert available_cpus(root) == 4
    assert memory_limit_bytes(root) == 1000 * MIB
    assert available_memory_bytes(root) == 400 * MIB


@pytest.mark.parametrize(
    ("own", "top"),
    [("/docker/ab12", "/docker/ab12"), ("/", "/"), ("/../other", "/"), ("/elsewhere", "/docker/x")],
)
def test_a_container_may_see_its_group_as_the_top_of_the_tree(machine, own, top):
    """With and without a cgroup namespace, and with a group that cannot be seen from inside."""
    root = machine(unified(own, top, **{"memory.max": str(512 * MIB), "memory.current": "0"}))

    assert memory_limit_bytes(root) == 512 * MIB
    assert available_memory_bytes(root) == 512 * MIB


def test_memory_of_version_1(machine):
    """Its largest number is no limit; cache of the groups below counts as reclaimable."""
    folder = "sys/fs/cgroup/memory"
    root = machine(
        {
            "proc/self/cgroup": "4:memory:/app\n",
            "proc/self/mountinfo": V1.format(top="/", name="memory"),
            f"{folder}/memory.limit_in_bytes": str(UNLIMITED_V1),
            f"{folder}/memory.usage_in_bytes": str(7000 * MIB),
            f"{folder}/app/memory.limit_in_bytes": str(600 * MIB),
            f"{folder}/app/memory.usage_in_bytes": str(500 * MIB),
            f"{folder}/app/memory.stat": f"inactive_file 1\ntotal_inactive_file {100 * MIB}\n",
        }
    )

    assert memory_limit_bytes(root) == 600 * MIB
    assert available_memory_bytes(root) == 200 * MIB


def test_a_group_that_throttles_limits_as_well(machine):
    """Above memory.high everything slows down, the server too; over the limit is none, not less."""
    root = machine(
        unified(
            "/",
            **{
                "memory.max": str(900 * MIB),
                "memory.high": str(800 * MIB),
                "memory.current": str(850 * MIB),
            },
        )
    )

    assert memory_limit_bytes(root) == 800 * MIB
    assert available_memory_bytes(root) == 0


def test_both_versions_side_by_side(machine):
    """The memory controller may be in the old tree while the new one is there without it."""
    root = machine(
        {
            "proc/self/cgroup": "4:memory:/app\n0::/\n",
            "proc/self/mountinfo": (
                V1.format(top="/", name="memory")
                + "41 31 0:38 / /sys/fs/cgroup/with\\040blank rw - cgroup2 cgroup2 rw\n"
                + "a line of another kind\n"
            ),
            "sys/fs/cgroup/memory/app/memory.limit_in_bytes": str(600 * MIB),
            "sys/fs/cgroup/with blank/cpu.max": "100000 100000",
        }
    )

    assert memory_limit_bytes(root) == 600 * MIB
    assert available_cpus(root) == 1


def test_this_machine_can_be_read():
    """Whatever it is: there is memory, and no more is available than there is."""
    assert 0 < (available_memory_bytes() or 0) <= memory_limit_bytes()
