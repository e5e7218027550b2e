"""What a clock is for ajit: the machine's, and one that a test moves on."""

from __future__ import annotations

import time

import anyio.to_thread
import pytest

import ajit
from ajit.testing import FakeClock
from tests.runtime.sources import ARCH, saxpy


def test_clock_goes_forward(clock):
    """By what was said at least, and both times together."""
    before = (clock.time(), clock.monotonic())
    clock.advance(clock.unit_seconds)
    after = (clock.time(), clock.monotonic())

    assert after[1] - before[1] >= clock.unit_seconds
    # The Unix time may be set meanwhile; on a machine of this kind it is not, by much.
    assert after[0] - before[0] == pytest.approx(after[1] - before[1], abs=0.1)


def test_clock_never_goes_back(clock):
    """However often it is asked, and moved on between."""
    times = [clock.monotonic()]
    for step in (0.0, 0.001, 0.0):
        clock.advance(step)
        times.append(clock.monotonic())

    assert times == sorted(times)


def options_of(compiler, folder):
    """A runtime without a device."""
    return {
        "device": "none",
        "cache_dir": folder / "cache",
        "host_compiler": str(compiler.path),
    }


@pytest.mark.anyio
async def test_failure_is_believed_until_its_time_is_over(clock, fake_compiler, tmp_path):
    """Then the source is compiled again, though no time has passed."""
    options = options_of(fake_compiler, tmp_path)
    unit = clock.unit_seconds
    async with ajit.open_runtime(failure_seconds=unit, **options) as rt:
        fake_compiler.refuse("kernel.cu:1:1: error: not today\n")
        with pytest.raises(ajit.CompileError, match="not today"):
            await rt.compile(saxpy(), arch=ARCH)
        fake_compiler.recover()
        if isinstance(clock, FakeClock):  # a busy machine may take longer than the real unit
            with pytest.raises(ajit.CompileError, match="not today"):
                await rt.compile(saxpy(), arch=ARCH)
            assert fake_compiler.started == 1
        await anyio.to_thread.run_sync(clock.advance, unit)
        await rt.compile(saxpy(), arch=ARCH)

    assert fake_compiler.started == 2


@pytest.mark.anyio
async def test_events_have_its_time(fake_compiler, tmp_path):
    """Both of their times, in seconds."""
    seen = []
    options = options_of(fake_compiler, tmp_path)
    with FakeClock() as clock:
        clock.advance(86400.0)
        async with ajit.open_runtime(subscribers=[seen.append], **options) as rt:
            await rt.compile(saxpy(), arch=ARCH)

    assert all(event.unix_seconds - time.time() > 86000 for event in seen)
    assert all(event.monotonic_seconds - time.monotonic() > 86000 for event in seen)


def test_only_ajit_has_another_time():
    """And the real one again after the block."""
    from ajit._cache.entries import failures

    with FakeClock() as clock:
        clock.advance(1e6)
        assert failures.time.time() - time.time() > 9e5
        assert failures.time.monotonic_ns() - time.monotonic_ns() > 9e14
        assert failures.time.sleep is time.sleep
        assert "1000000.0" in repr(clock)

    assert failures.time is time


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_clock_does_not_go_back(seconds):
    """It is refused."""
    with pytest.raises(ValueError, match="forward"):
        FakeClock().advance(seconds)
