"""Fixtures of the device layer's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ajit._gpu.thread import running_threads
from tests.gpu.cpu_driver import Cpu, build_driver
from tests.gpu.support import Faults, until_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def driver_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CPU driver, built from source into a folder of its own."""
    return build_driver(tmp_path_factory.mktemp("cpu_driver"))


@pytest.fixture
def cpu(driver_library: Path) -> Iterator[Cpu]:
    """The CPU driver with a context that is current on the test's thread, and gone after it."""
    cpu = Cpu(driver_library).start()
    yield cpu
    cpu.stop()


@pytest.fixture
def faults() -> Iterator[Faults]:
    """Faults on demand, forgotten after the test."""
    faults = Faults()
    faults.reset()
    yield faults
    faults.reset()


@pytest.fixture
def no_device_left() -> Iterator[None]:
    """Fail the test if a CUDA thread outlives it."""
    yield
    until_blocking(lambda: not running_threads())
