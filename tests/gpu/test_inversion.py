"""The lock-order inversion: the model deadlocks where it should, and ajit does not."""

from __future__ import annotations

import pytest

from ajit._gpu.driver import CPU_LIBRARY
from ajit._gpu.wire import NATIVE
from benchmarks.inversion import run_cell

DRIVER = str(NATIVE / CPU_LIBRARY)


@pytest.mark.slow  # a deadlock is seen by waiting: nothing else tells it from a slow machine
def test_a_python_callback_deadlocks_beside_a_library_that_keeps_the_gil():
    """The trap is there: letting the GIL go oneself does not help, another's call is enough."""
    outcome = run_cell(DRIVER, "python", "released", "foreign", 20_000)

    assert outcome.deadlocked
    assert not outcome.error


def test_a_c_callback_does_not():
    """The same with a host function that writes an eventfd (rule R2)."""
    outcome = run_cell(DRIVER, "eventfd", "released", "foreign", 200)

    assert (outcome.done, outcome.deadlocked, outcome.error) == (200, False, "")


def test_ajit_does_not():
    """Thousands of tickets come back beside a thread that enters the driver with the GIL held."""
    outcome = run_cell(DRIVER, "ajit", "released", "foreign", 5_000)

    assert (outcome.done, outcome.deadlocked, outcome.error) == (5_000, False, "")


@pytest.mark.parametrize("beside", ["foreign", "callbacks"])
def test_loads_and_saves_of_a_kv_cache_do_not(beside):
    """Some of them cancelled, their bytes compared: beside calls that keep the GIL, or want it."""
    outcome = run_cell(DRIVER, "kv", "released", beside, 2_000)

    assert (outcome.done, outcome.deadlocked, outcome.error) == (2_000, False, "")
