"""Mistakes of a caller: told as such, by one plain exception, and nothing is started."""

from __future__ import annotations

from inspect import isawaitable

import anyio
import pytest

import ajit
from tests.runtime.sources import ARCH, SAXPY, saxpy

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("wrong", ["__global__ void f() {}", 5, None, [SAXPY]])
@pytest.mark.parametrize("method", ["kernel", "module", "compile", "resolve", "kernel_nowait"])
async def test_anything_else_is_not_a_spec(with_device, method, wrong):
    """A source, a number or a list of specs is passed where a spec is expected."""
    expected = rf"expected an ajit\.Spec, got {type(wrong).__name__}"
    async with ajit.open_runtime(**with_device) as rt:
        with pytest.raises(ajit.SpecError, match=expected):
            await _called(getattr(rt, method), wrong)


async def test_text_is_not_a_list_of_specs(options):
    """Nothing is warmed up, and no character of it is reported as failed."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.SpecError, match=r"expected an ajit\.Spec, got str"):
            await rt.warmup("abc")


@pytest.mark.parametrize("wrong", [SAXPY, None, 5])
async def test_warmup_takes_several_specs(options, wrong):
    """One spec is passed where a list is expected, or nothing at all."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.SpecError, match="warmup takes"):
            await rt.warmup(wrong)


@pytest.mark.parametrize("wrong", [5, [5], None])
async def test_subscribers_are_functions(options, wrong):
    """Refused before anything is started."""
    with pytest.raises(TypeError, match="function"):
        async with ajit.open_runtime(**options, subscribers=wrong):
            pytest.fail("not reached")


@pytest.mark.parametrize(
    ("fallback", "message"),
    [
        (5, r"fallback: expected an ajit\.Spec, got int"),
        (SAXPY.with_(entries="scale", name="scale"), r"scale\(float, float\*, int\)"),
        (ajit.Spec("__global__ void two(int a, int b) {}", "two"), r"two\(int, int\)"),
        (
            ajit.Spec("__global__ void wide(double, const float*, float*, int) {}", "wide"),
            r"wide\(double, .*saxpy\(float, ",
        ),
    ],
    ids=["number", "fewer", "other-kinds", "other-size"],
)
async def test_fallback_that_takes_other_arguments_is_refused(with_device, fallback, message):
    """Whether it is loaded or not; the error shows both parameter lists."""
    async with ajit.open_runtime(**with_device) as rt:
        with pytest.raises(ajit.SpecError, match=message):
            await rt.kernel(SAXPY, fallback=fallback)
        in_progress = rt.statistics().in_progress

    assert in_progress == 0


def test_runtime_outside_of_any_loop_is_in_the_wrong_loop(with_device):
    """After its loop has ended, or in a callback that no loop runs."""
    kept = []

    async def main():
        async with ajit.open_runtime(**with_device) as rt:
            kept.append(rt)

    anyio.run(main)
    with pytest.raises(ajit.WrongLoop, match="another event loop"):
        _ = kept[0].device


async def test_progress_function_that_raises_is_reported_and_disturbs_nothing(options):
    """The warm-up goes on; one warning for each call that failed."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.warns(ajit.AjitWarning, match="ZeroDivisionError"):
            report = await rt.warmup([SAXPY.with_(arch=ARCH)], on_progress=lambda _: 1 / 0)

    assert report.compiled == 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        KeyboardInterrupt("mine"),
        SystemExit("mine"),
        GeneratorExit("mine"),
        ExceptionGroup("mine", [ValueError()]),
        BaseExceptionGroup("mine", [KeyboardInterrupt()]),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("device", ["none", "cpu"])
async def test_exception_of_the_body_comes_out_as_it_is(options, device, error):
    """Not wrapped into a group of exceptions, and with nothing left behind."""
    with pytest.raises(type(error)) as caught:
        async with ajit.open_runtime(**{**options, "device": device}):
            raise error

    assert caught.value is error


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


async def _called(method, argument):
    answer = method(argument)
    return await answer if isawaitable(answer) else answer
