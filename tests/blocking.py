"""Detection of blocking calls on the thread of an event loop: BlockBuster, widened.

BlockBuster replaces functions that block (`time.sleep`, `os.read`, methods of files and sockets,
waiting for a lock, ...) by wrappers that raise `BlockingError` on a thread that runs an asyncio
loop. Three things are added here:

- On trio BlockBuster sees nothing, because it asks `asyncio.get_running_loop()`. It is given an
  `asyncio` that answers for trio as well.
- `except Exception` swallows a `BlockingError`. Each one is recorded when it is made.
- Some calls that ajit is about are not on BlockBuster's list: fsync, record locks, starting and
  waiting for processes.

Only calls with a frame of the scanned modules on the stack count: a test may block its own loop,
also by the switches of a fake.
Not seen: C code that blocks inside ctypes, and `with lock:` (only `lock.acquire()` is wrapped).
"""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import blockbuster.blockbuster as implementation
import trio
from blockbuster import BlockBuster, BlockBusterFunction, BlockingError

if TYPE_CHECKING:
    from collections.abc import Iterator

MORE_BLOCKING_FUNCTIONS = (
    "fcntl.flock",
    "fcntl.lockf",
    "os.fdatasync",
    "os.fsync",
    "os.open",
    "os.waitpid",
    "select.select",
    "subprocess.Popen",
    "threading.Thread.join",
)


SWITCHES = ["ajit.testing.compiler"]
"""Modules whose functions tests call for what blocks."""


@contextlib.contextmanager
def watch_blocking_calls(scanned_modules: list[str]) -> Iterator[list[str]]:
    """Raise `BlockingError` where code below `scanned_modules` blocks a loop; yield their names."""
    calls: list[str] = []

    class RecordedBlockingError(BlockingError):
        def __init__(self, function: str) -> None:
            calls.append(function)
            super().__init__(function)

    watch = BlockBuster(scanned_modules, excluded_modules=SWITCHES)
    for name in MORE_BLOCKING_FUNCTIONS:
        watch.functions[name] = BlockBusterFunction(
            None,
            name,
            scanned_modules=scanned_modules,
            excluded_modules=SWITCHES,
            can_block_predicate=_never_blocks if name == "threading.Thread.join" else _may_block,
        )
    # What the kernel itself writes (/proc, cgroups) is in memory: no device is waited for.
    watch.functions["io.TextIOWrapper.read"].can_block_in("ajit/_system/limits.py", "_read")
    with (
        _replaced(implementation, "BlockingError", RecordedBlockingError),
        _replaced(implementation, "asyncio", SimpleNamespace(get_running_loop=_running_loop)),
        contextlib.ExitStack() as stack,
    ):
        stack.callback(watch.deactivate)
        watch.activate()
        yield calls


def _running_loop() -> object:
    """The loop of this thread, asyncio's or trio's; `RuntimeError` where there is none."""
    if trio.lowlevel.in_trio_run():
        return trio.lowlevel.current_trio_token()
    return asyncio.get_running_loop()


def _never_blocks(thread: Any, timeout: float | None = None) -> bool:
    return timeout == 0 or not thread.is_alive()


def _may_block(*_args: object, **_options: object) -> bool:
    return False


@contextlib.contextmanager
def _replaced(module: object, name: str, value: object) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
