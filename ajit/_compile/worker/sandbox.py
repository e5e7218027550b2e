"""What a compile of a foreign source may touch, where the setting ``sandbox`` asks for one.

A source can name any file: ``#include "/etc/passwd"`` prints it in the log of the error, and
``.incbin`` puts it into the kernel. So the worker confines itself before it compiles
(`ajit._compile.worker.landlock`) to

- read: the compiler, the headers and libraries of the system, the directories that the spec
  declares (``include_dirs``, ``-I``), and what the C library asks of the kernel;
- write: the job's folder, and ``/dev/null``;
- no network, and no process outside.

A confined worker does one job and ends, since the next one's directories are others. Its compilers
are confined with it, and so are recorded as ever: the recorder and the kernel see a worker and its
children as one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

from ajit._compile.recorder.flags import option_dirs
from ajit._compile.worker.landlock import confine
from ajit._compile.worker.place import top_of
from ajit._compile.worker.records import LIBRARY_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ajit._compile.worker.messages import WorkerRequest

__all__ = ["Rules", "enter", "parts_of", "rules_of"]

_SYSTEM = (
    *("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin"),
    *("/usr/bin", "/usr/include", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec"),
    *("/usr/libx32", "/usr/local/bin", "/usr/local/include", "/usr/local/lib", "/usr/local/lib64"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload"),
    "/etc/localtime",  # __DATE__ and __TIME__
    "/usr/share/zoneinfo",
    "/nix/store",
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/self"),
    *("/proc/sys/vm/overcommit_memory", "/sys/devices/system/cpu", "/sys/fs/cgroup/memory.max"),
    *("/dev/zero", "/dev/urandom", "/dev/random"),
)
_WRITABLE = ("/dev/null",)


class Rules(NamedTuple):
    """What may be touched: files, and directories with all below them.

    Attributes:
        readable: May be read and executed.
        writable: May be changed as well.
    """

    readable: tuple[str, ...]
    writable: tuple[str, ...]


def enter(request: WorkerRequest) -> None:
    """Confine this process to what a job may touch. For good: it takes no other job.

    Raises:
        OSError: It cannot be confined; nothing may be compiled then.
    """
    confine(*rules_of(request))


def parts_of(root: str) -> list[str]:
    """Return what a directory has of a compiler. Not all of it: it may be the home directory."""
    parts = ["bin", "include", "lib", "lib32", "lib64", "libexec", "nvvm", "targets"]
    with contextlib.suppress(OSError):
        parts += [name for name in os.listdir(root) if "-linux" in name]  # sysroots, as conda has
    return [os.path.join(root, part) for part in parts]


def rules_of(request: WorkerRequest) -> Rules:
    """Return what a job may touch."""
    job = request.job
    programs = [request.command[0], *(shutil.which(name) or "" for name in ("gcc", "g++"))]
    readable = [
        *_SYSTEM,
        os.path.dirname(os.__file__),  # modules that are imported late
        os.environ.get(LIBRARY_VARIABLE, ""),
        *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep),
        # A build names its program as it likes; what it names by a path it has to declare.
        *_of_toolchain([path for path in programs if os.path.isabs(path)]),
        *request.include_dirs,
        *option_dirs(request.flags),
    ]
    home = os.environ.get("HOME", "")
    own = [path for path in readable if _is_narrow(path, home)]
    own += [*(request.sandbox or ()), *job.include_dirs, *option_dirs(job.options)]
    return Rules(tuple(dict.fromkeys(own)), (*_WRITABLE, top_of(request.folder)))


def _of_toolchain(programs: Sequence[str]) -> Iterator[str]:
    for program in programs:
        for path in dict.fromkeys((program, os.path.realpath(program))):
            yield path
            directory = os.path.dirname(path)
            if os.path.basename(directory) == "bin":
                yield from parts_of(os.path.dirname(directory))
            elif os.path.basename(path) == "zig" or ".so" in os.path.basename(path):
                yield directory  # zig's library, and those of NVRTC, lie beside them


def _is_narrow(path: str, home: str) -> bool:
    """Whether a path is no directory that has everything of a machine or of a user below it.

    A compiler that lies in the home directory is no reason to let it read all of that.
    """
    if not os.path.isabs(path):
        return False
    real = os.path.realpath(path)
    broad = {os.path.realpath(place) for place in ("/", "/tmp", "/var/tmp", "/etc", "/home", home)}  # noqa: S108 - not written to
    return real not in broad
