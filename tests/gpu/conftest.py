"""Fixtures of the device layer's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ajit._gpu.thread import running_threads
from tests.gpu.support import Faults, until_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator


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
