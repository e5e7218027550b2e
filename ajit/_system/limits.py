"""What this process may use of its machine: CPUs and memory, as the kernel and cgroups say it.

A container sees the processors and the memory of its host; its cgroups say what it may use. They
are nested, and each of them limits, so the smallest number counts. Both kinds are read: version 2
(one tree) and version 1 (a tree for each controller), also side by side.

If nothing can be read (no ``/proc``, no ``/sys/fs/cgroup``, another operating system's layout),
there is no limit. Every function takes the directory that stands for ``/``, and reads the files at
each call: the limits of a running container may change. Reading takes some 0.4 ms and waits for no
device, so `Settings` may do it where an event loop runs.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["available_cpus", "available_memory_bytes", "memory_limit_bytes"]

ROOT = Path("/")

UNLIMITED_BYTES = 1 << 60
"""Version 1 writes "no limit" as the largest number of whole pages; no machine has this much."""


def available_cpus(root: Path = ROOT) -> int:
    """CPUs that this process may use: its affinity, and the CPU quota of its cgroups.

    A quota of 2.5 CPUs counts as 2: a container that exceeds its quota is stopped as a whole, and
    the half is needed by the server's own threads.
    """
    quotas = [int(quota) for group in _groups(root, "cpu") if (quota := _cpu_quota(group))]
    return max(1, min([len(os.sched_getaffinity(0)), *quotas]))


def memory_limit_bytes(root: Path = ROOT) -> int:
    """Memory that this process may use at most: the machine's, or a cgroup's if that is less.

    0 if it is not known.
    """
    limits = [limit for group in _groups(root, "memory") if (limit := _memory_limit(group))]
    total = _meminfo(root).get("MemTotal", 0)
    return min(filter(None, (total, *limits)), default=0)


def available_memory_bytes(root: Path = ROOT) -> int | None:
    """Memory that can be used now without swapping: the machine's, or a cgroup's if that is less.

    Page cache that the kernel would give up counts as available. None if it is not known.
    """
    rooms = [room for group in _groups(root, "memory") if (room := _memory_room(group)) is not None]
    available = _meminfo(root).get("MemAvailable")
    return min((room for room in (available, *rooms) if room is not None), default=None)


@dataclass(frozen=True, slots=True)
class _Group:
    """One cgroup that this process is in; `unified` is version 2."""

    path: Path
    unified: bool

    def text(self, name: str) -> str:
        return _read(self.path / name)

    def number(self, name: str) -> int | None:
        """The number in a file; None if there is no such file, or no number ("max") in it."""
        text = self.text(name)
        return int(text) if text.lstrip("-").isdigit() else None

    def table(self, name: str) -> dict[str, int]:
        return _numbers(self.text(name).splitlines())


def _cpu_quota(group: _Group) -> float | None:
    if group.unified:
        quota, _, period = group.text("cpu.max").partition(" ")
    else:
        quota, period = group.text("cpu.cfs_quota_us"), group.text("cpu.cfs_period_us")
    # No quota is "max" in version 2 and -1 in version 1; neither is a row of digits.
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return None
    return int(quota) / int(period)


def _memory_limit(group: _Group) -> int | None:
    # Above memory.high nothing is killed, but everything is throttled, the server too.
    names = ("memory.max", "memory.high") if group.unified else ("memory.limit_in_bytes",)
    limits = [limit for name in names if (limit := group.number(name)) is not None]
    least = min(limits, default=UNLIMITED_BYTES)
    return least if least < UNLIMITED_BYTES else None


def _memory_room(group: _Group) -> int | None:
    limit = _memory_limit(group)
    current, cache = (
        ("memory.current", "inactive_file")
        if group.unified
        else ("memory.usage_in_bytes", "total_inactive_file")
    )
    used = group.number(current)
    if limit is None or used is None:
        return None
    return max(0, limit - used + group.table("memory.stat").get(cache, 0))


# --- where the cgroups are


def _groups(root: Path, controller: str) -> Iterator[_Group]:
    """The cgroups that limit a controller for this process, from its own one upwards."""
    own = _own_paths(root)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount = _Mount.parse(line)
        if mount is None or not mount.controls(controller):
            continue
        path = own.get("" if mount.unified else controller)
        if path is not None:
            yield from _upwards(root, mount, path)


def _own_paths(root: Path) -> dict[str, str]:
    """This process's cgroup for each controller of version 1, and for version 2 as ""."""
    paths: dict[str, str] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths |= dict.fromkeys(controllers.split(","), path)
    return paths


@dataclass(frozen=True, slots=True)
class _Mount:
    """A line of mountinfo that mounts a cgroup tree: which part of it (``top``) is seen where."""

    top: str
    point: str
    unified: bool
    options: tuple[str, ...]

    @classmethod
    def parse(cls, line: str) -> _Mount | None:
        # Fields 4 and 5, and after a lone hyphen the type and, third from there, the options.
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 3 or kinds[0] not in ("cgroup", "cgroup2"):
            return None
        options = tuple(kinds[2].split(","))
        return cls(fields[3], _unescape(fields[4]), kinds[0] == "cgroup2", options)

    def controls(self, controller: str) -> bool:
        # In version 2 a controller that is not enabled has no files.
        return self.unified or controller in self.options


def _upwards(root: Path, mount: _Mount, own: str) -> Iterator[_Group]:
    top = root / mount.point.lstrip("/")
    # A container may see its own group as the top of the tree, under the name it has outside.
    below = own.removeprefix(mount.top) if _is_below(own, mount.top) else ""
    parts = [part for part in below.split("/") if part]
    for depth in range(len(parts), -1, -1):
        # ".." stands for a group outside of this process's cgroup namespace: not visible here.
        if ".." not in parts[:depth]:
            yield _Group(top.joinpath(*parts[:depth]), mount.unified)


def _is_below(path: str, top: str) -> bool:
    return top in ("/", path) or path.startswith(top + "/")


# --- reading


def _meminfo(root: Path) -> dict[str, int]:
    lines = (line.replace(":", " ") for line in _read(root / "proc/meminfo").splitlines())
    return {name: kib * 1024 for name, kib in _numbers(lines).items()}


def _numbers(lines: Iterator[str] | list[str]) -> dict[str, int]:
    fields = (line.split() for line in lines)
    return {field[0]: int(field[1]) for field in fields if len(field) > 1 and field[1].isdigit()}


def _read(path: Path) -> str:
    """Text of a file, or "" if there is none: then there is no limit."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return ""


def _unescape(text: str) -> str:
    """Undo mountinfo's octal escapes of blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
