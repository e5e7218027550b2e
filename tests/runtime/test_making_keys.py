"""Making a key may take long: it is told, and a runtime that closes does not wait for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio
import psutil
import pytest

import ajit
from ajit import events
from tests.runtime.sources import ARCH, SAXPY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


class MuteCompiler:
    """A compiler that is asked for its version and says nothing, until it exits."""

    def __init__(self, folder: Path, *, helped: bool = False) -> None:
        self._asked, self._gate, self.path = folder / "asked", folder / "gate", folder / "mute-c++"
        for pipe in (self._asked, self._gate):
            os.mkfifo(pipe)
        self.path.write_text(
            f"#!/bin/sh\n[ -p {self._gate} ] || exit 1\n"
            f"{'sleep 600 &' if helped else ''}\n"
            f"[ -p {self._asked} ] && echo $$ $! > {self._asked}\n"
            f"read -r _ < {self._gate}\nexit 1\n"
        )
        self.path.chmod(0o755)

    async def wait_asked(self) -> list[int]:
        """Wait until it is asked; return its process, and the one that it has started, if any."""
        said = await anyio.to_thread.run_sync(self._asked.read_text)
        return [int(pid) for pid in said.split()]

    def let_go(self) -> None:
        """Let it exit, and from now on at once."""
        if self._gate.exists():
            with os.fdopen(os.open(self._gate, os.O_RDWR), "w") as gate:
                self._gate.unlink()
                self._asked.unlink()
                gate.write("\n")


@pytest.fixture
def mute(tmp_path: Path, options: dict[str, object]) -> Iterator[MuteCompiler]:
    """The compiler of the runtimes of this test."""
    mute = MuteCompiler(tmp_path)
    options["host_compiler"] = str(mute.path)
    yield mute
    mute.let_go()


@pytest.mark.parametrize("cancelled", [True, False])
async def test_closing_does_not_wait_for_a_thread_that_makes_a_key(options, mute, cancelled):
    """No key is made without the compiler's version, and this compiler does not say it."""

    async def want(rt, scope):
        with scope, pytest.raises(ajit.RuntimeClosed):
            await rt.compile(SAXPY, arch=ARCH)

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        async with ajit.open_runtime(**options) as rt:
            group.start_soon(want, rt, scope)
            await mute.wait_asked()
            if cancelled:
                scope.cancel()
            begun = anyio.current_time()
        took = anyio.current_time() - begun
    mute.let_go()

    assert took < 10


async def test_closing_ends_a_compiler_that_is_asked(options, tmp_path):
    """And what it has started; it would have lived on for a minute."""
    mute = MuteCompiler(tmp_path, helped=True)
    options["host_compiler"] = str(mute.path)

    async def want(rt):
        with pytest.raises(ajit.RuntimeClosed):
            await rt.compile(SAXPY, arch=ARCH)

    async with anyio.create_task_group() as group, ajit.open_runtime(**options) as rt:
        group.start_soon(want, rt)
        asked = await mute.wait_asked()
    with anyio.fail_after(30):  # half of what the compiler may take
        while any(lives(pid) for pid in asked):  # noqa: ASYNC110  # they are killed, and reaped
            await anyio.sleep(0.01)

    assert len(asked) == 2


def lives(pid):
    """Whether a process runs; one that was not reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_key_that_takes_long_is_told_and_counted(options, mute):
    """After half a second: which request, what it is at; and no more once it has ended."""
    told, slow = [], anyio.Event()

    def watch(event):
        if isinstance(event, events.MakingKey):
            told.append(event)
            slow.set()

    async def want(rt):
        with pytest.raises(ajit.CompilerNotFound):
            await rt.compile(SAXPY, arch=ARCH)

    async with ajit.open_runtime(**options, subscribers=[watch]) as rt:
        async with anyio.create_task_group() as group:
            group.start_soon(want, rt)
            await mute.wait_asked()
            with anyio.fail_after(60):
                await slow.wait()
            counted = rt.statistics()
            mute.let_go()
        after = rt.statistics()

    event = told[0]
    assert (event.name, event.key, event.doing) == (SAXPY.name, "", "compiler")
    assert event.waited_seconds >= 0.5
    assert [making.name for making in counted.making_keys] == [SAXPY.name]
    assert f"making the key: {SAXPY.name}" in str(counted)
    assert after.making_keys == ()


async def test_a_key_that_is_made_at_once_is_not_told(options):
    """What takes a moment is not told."""
    told = []
    async with ajit.open_runtime(**options) as rt:
        await rt.compile(SAXPY, arch=ARCH)  # the compiler was asked, which may take long
        rt.subscribe(told.append)
        await rt.compile(SAXPY, arch=ARCH)

    assert not [event for event in told if isinstance(event, events.MakingKey)]
