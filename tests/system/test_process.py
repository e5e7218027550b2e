"""Whether a process is gone, also where /proc does not tell."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from ajit._system.process import is_gone, start_ticks_of, this_process
from tests.cache.helpers import in_a_forked_child

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount and change the user")

OTHER = 65534
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x00020000, 1 << 14, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def mount_proc(kind: bytes, options: bytes | None) -> None:
    """Mount another /proc, for the calling process alone. Ends the process if it may not."""
    if (
        _libc.unshare(_CLONE_NEWNS)
        or _libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
        or _libc.mount(kind, b"/proc", kind, 0, options)
    ):
        os._exit(77)


def check(kind: bytes, options: bytes | None, look) -> None:
    """Run a check where /proc is of another kind, as another user."""

    def there() -> bool:
        mount_proc(kind, options)
        os.setgroups([])
        os.setgid(OTHER)
        os.setuid(OTHER)
        return look()

    this_process()  # before, as in a process whose /proc goes away
    try:
        assert in_a_forked_child(there)
    except AssertionError:
        if in_a_forked_child(lambda: mount_proc(kind, options) or True):
            raise
        pytest.skip("this machine lets no process mount /proc")


def a_dead_process() -> int:
    """The id of a process that was there."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@only_root
@pytest.mark.parametrize(
    ("kind", "options"), [(b"proc", b"hidepid=2"), (b"tmpfs", None)], ids=["hidden", "no proc"]
)
def test_a_living_process_that_proc_does_not_show_is_not_gone(kind, options):
    """Another user's process, by its claim and by its temporary file; a dead one is gone."""
    living, dead = this_process(), a_dead_process()
    file, rest = living.file_prefix, ".0123456789abcdef"
    left = f"{file.rsplit('.', 2)[0]}.{dead}.1"

    def look() -> bool:
        return (
            not is_gone(living.pid, living.start_ticks)
            and not living.outlived(file + rest)
            and start_ticks_of(living.pid) == 0
            and is_gone(dead, 1)
            and living.outlived(left + rest)
        )

    check(kind, options, look)


def test_a_process_is_gone_if_there_is_none_or_another_of_its_id():
    """Its start tells which; a start that is not known tells nothing."""
    me = this_process()

    assert not is_gone(me.pid, me.start_ticks)
    assert not is_gone(me.pid, 0)
    assert is_gone(me.pid, me.start_ticks + 1)
    for pid in (a_dead_process(), 0, -1, -me.pid, 2**31, 2**80):
        assert is_gone(pid, 1), pid
        assert start_ticks_of(pid) is None, pid


def test_a_process_that_was_not_waited_for_is_gone():
    """As that of a rank is which was killed, until its parent asks how it ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        start = start_ticks_of(child.pid)
        assert start
        assert not is_gone(child.pid, start)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

        assert is_gone(child.pid, start)
