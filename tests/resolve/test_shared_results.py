"""Requests of one process that share a flight: each gets a kernel of what its files say."""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import anyio
import pytest

import ajit
from ajit._core import events
from ajit._resolve.flight import flights

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

ARCH = platform.machine()
SOURCE = '#include "value.h"\nextern "C" __global__ void kernel(int* x) { x[0] = VALUE; }\n'
LIMIT_SECONDS = 60.0


def including(folder: Path) -> ajit.Spec:
    """A kernel that includes a header of a folder."""
    return ajit.Spec(SOURCE, "kernel", name="kernel", include_dirs=[folder], compiler="host")


def save(folder: Path, value: int) -> None:
    """Write the header."""
    folder.mkdir(exist_ok=True)
    (folder / "value.h").write_text(f"#define VALUE {value}\n")


async def fresh(folder: Path, cache_dir: Path) -> bytes:
    """What a compile into a new cache gives."""
    async with ajit.open_runtime(device="none", cache_dir=cache_dir) as runtime:
        return (await runtime.resolve(including(folder), arch=ARCH)).artifact.data


async def test_two_directories_at_once_give_two_kernels(tmp_path):
    """Both specs have one base key, which names no directory."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for value, folder in enumerate(folders):
        save(folder, value)
    expected = [await fresh(folder, tmp_path / f"{folder.name} fresh") for folder in folders]
    actual: dict[Path, bytes] = {}

    async with ajit.open_runtime(device="none", cache_dir=tmp_path / "cache") as runtime:

        async def ask(folder: Path) -> None:
            actual[folder] = (await runtime.resolve(including(folder), arch=ARCH)).artifact.data

        async with anyio.create_task_group() as group:
            for folder in folders:
                group.start_soon(ask, folder)

    assert expected[0] != expected[1]
    assert [actual[folder] for folder in folders] == expected


async def test_request_after_an_edit_is_not_given_what_was_compiled_before_it(tmp_path):
    """It joins the flight when the leader has compiled, and is about to publish."""
    folder, cache_dir = tmp_path / "headers", tmp_path / "cache"
    save(folder, 2)
    expected = await fresh(folder, tmp_path / "fresh")
    save(folder, 1)

    def edit_and_ask() -> bytes:
        save(folder, 2)
        with ajit.open_blocking_runtime(device="none", cache_dir=cache_dir) as runtime:
            return runtime.compile(including(folder), arch=ARCH).data

    with ThreadPoolExecutor(1) as thread:
        asked = []

        def on_event(event: events.Event) -> None:
            if isinstance(event, events.CompileFinished) and not asked:
                asked.append(thread.submit(edit_and_ask))
                wait_for_members(2)  # the leader's loop stands still meanwhile

        async with ajit.open_runtime(
            device="none", cache_dir=cache_dir, subscribers=[on_event]
        ) as runtime:
            first = (await runtime.resolve(including(folder), arch=ARCH)).artifact.data
            second = await anyio.to_thread.run_sync(asked[0].result)

    assert first != expected
    assert second == expected


def wait_for_members(count: int) -> None:
    """Wait until that many tasks of this process want kernels."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while flights.statistics().members < count:
        assert time.monotonic() < deadline, "it does not join"
        os.sched_yield()
