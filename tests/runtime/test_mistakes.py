"""Mistakes of a caller: told as such, by one plain exception, and nothing is started."""

from __future__ import annotations

import pytest

import ajit
from tests.runtime.sources import ARCH, SAXPY, saxpy

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("method", ["kernel", "module", "compile", "resolve"])
async def test_text_is_not_a_spec(with_device, method):
    """The source is passed where a spec is expected."""
    async with ajit.open_runtime(**with_device) as rt:
        with pytest.raises(ajit.SpecError, match=r"expected an ajit\.Spec, got str"):
            await getattr(rt, method)("__global__ void f() {}")


async def test_text_is_not_a_list_of_specs(options):
    """Nothing is warmed up, and no character of it is reported as failed."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.SpecError, match=r"expected an ajit\.Spec, got str"):
            await rt.warmup("abc")


async def test_progress_function_that_raises_is_reported_and_disturbs_nothing(options):
    """The warm-up goes on; one warning for each call that failed."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.warns(ajit.AjitWarning, match="ZeroDivisionError"):
            report = await rt.warmup([SAXPY.with_(arch=ARCH)], on_progress=lambda _: 1 / 0)

    assert report.compiled == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
async def test_exception_of_the_body_comes_out_as_it_is(options, error):
    """Not wrapped into a group of exceptions, and with nothing left behind."""
    with pytest.raises(error, match="mine"):
        async with ajit.open_runtime(**options):
            raise error("mine")


async def test_kernel_is_returned_where_warnings_are_errors(options, cache_dir):
    """A cache that cannot be written costs a warning, and never the kernel."""
    async with ajit.open_runtime(**options) as rt:
        first = await rt.compile(saxpy(1), arch=ARCH)
        # Every directory below is a file now, which is an error that root meets as well.
        entries = cache_dir / "entries"
        entries.rename(cache_dir / "gone")
        entries.touch()
        second = await rt.compile(saxpy(2), arch=ARCH)
        entries.unlink()
        (cache_dir / "gone").rename(entries)

        assert rt.statistics().disk.failed == 1
    assert second.entries == first.entries
