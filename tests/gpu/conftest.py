"""Fixtures of the device layer's tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

import ajit
from ajit._gpu import wire
from ajit._gpu.completion import waiting
from ajit._gpu.completion.thread import running_threads
from ajit.errors import NoDevice
from tests.gpu.cpu_driver import Cpu, build_driver
from tests.gpu.driver_clock import DriverClock, build_executor
from tests.gpu.shim import Journal, build_shim
from tests.gpu.support import ON_GPU, Faults, until_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


BOTH = frozenset(
    ["test_batch", "test_completion", "test_copy_ranges", "test_graph", "test_launch",
     "test_looking", "test_memory", "test_pages", "test_pressure", "test_registered",
     "test_staging", "test_steps", "test_stream", "test_thread"]
)  # fmt: skip
"""Files of tests that hold on a GPU as well, but for those below."""
ONLY_CPU = frozenset(["faults", "cpu", "driver_library", "monkeypatch"])
"""Fixtures of tests that only the CPU driver can pass: it fails and stops on demand."""
ABOUT_CPU = frozenset(
    ["test_memory_of_the_cpu_driver_is_no_cuda_array", "test_buffers_are_offered_by_dlpack",
     "test_arrays_of_other_libraries_are_taken_by_dlpack"]
)  # fmt: skip
"""Tests of what memory of the CPU driver is to other libraries."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that hold on a GPU as well."""
    for item in items:
        fixtures: list[str] = getattr(item, "fixturenames", [])
        about_cpu = getattr(item, "originalname", "") in ABOUT_CPU or ONLY_CPU.intersection(
            fixtures
        )
        if item.path.stem in BOTH and not about_cpu:
            item.add_marker(pytest.mark.both)


@pytest.fixture(scope="session")
def driver_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CPU driver, built from source into a new folder."""
    return build_driver(tmp_path_factory.mktemp("cpu_driver"))


@pytest.fixture
def cpu(driver_library: Path) -> Iterator[Cpu]:
    """The CPU driver with a context that is current on the test's thread, and gone after it."""
    cpu = Cpu(driver_library).start()
    yield cpu
    cpu.stop()


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A driver that notes the calls that enter it, and counts those made with the GIL held."""
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def journal(shim: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """The journal of driver calls of the devices that are opened in the test."""
    monkeypatch.setattr("ajit._gpu.driver.CPU_LIBRARY", shim)
    return Journal(shim)


@pytest.fixture(scope="session")
def executor_with_driver_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executor, built with a clock that only calls of the driver move."""
    return build_executor(tmp_path_factory.mktemp("executor"))


@pytest.fixture
def driver_clock(
    executor_with_driver_clock: Path,
    shim: Path,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[DriverClock]:
    """Time that passes in calls of the driver only, for devices that are opened in the test."""
    assert journal is not None
    clock = DriverClock(executor_with_driver_clock, shim)
    monkeypatch.setattr(wire, "library", lambda: clock.library)
    # No task spins: by a clock that stands still, it would for ever.
    monkeypatch.setattr(waiting, "SPIN_SECONDS", 0.0)
    yield clock
    clock.stop()


@pytest.fixture
def faults() -> Iterator[Faults]:
    """Faults on demand, forgotten after the test."""
    if ON_GPU:
        pytest.skip("only the CPU driver fails on demand")
    faults = Faults()
    faults.reset()
    yield faults
    faults.reset()


@pytest.fixture
def patient_threads() -> Iterator[None]:
    """No thread makes another one let the GIL go: one goes on only where another waits."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def no_device_left() -> Iterator[None]:
    """Fail the test if a CUDA thread outlives it."""
    yield
    until_blocking(lambda: not running_threads())


@pytest.fixture
async def runtime(anyio_backend, tmp_path):
    """A runtime on the first GPU."""
    opened = ajit.open_runtime(device="cuda", cache_dir=tmp_path / "cache")
    try:
        rt = await opened.__aenter__()
    except NoDevice as error:
        pytest.skip(str(error))
    yield rt
    await opened.__aexit__(None, None, None)
