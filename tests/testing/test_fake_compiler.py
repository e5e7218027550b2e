"""What a host compiler does for a runtime: the machine's own, and the fake one in front of it."""

from __future__ import annotations

import platform

import anyio
import pytest

import ajit
from ajit.testing import FakeCompiler
from tests.runtime.sources import SYNTAX_ERROR, saxpy

pytestmark = pytest.mark.anyio

ARCH = platform.machine()
WITH_HEADER = '#include "factor.h"\nextern "C" __global__ void k(float* x) { x[0] = FACTOR; }\n'


@pytest.fixture
def options(tmp_path):
    """A cache of the test's own."""
    return {"cache_dir": tmp_path / "cache", "patience_seconds": 300.0, "failure_seconds": 300.0}


async def test_compiled_kernel_computes(options, host_compiler):
    """What comes out is loaded and run."""
    async with ajit.open_runtime(device="cpu", host_compiler=host_compiler, **options) as rt:
        kernel = await rt.kernel(saxpy())
        x, y = await rt.device.upload(bytes(16)), await rt.device.alloc(4, "float32")
        await rt.device.fill(y, 0)
        await kernel[1, 4](2.0, x, y, 4)
        result = await rt.device.download(y)

    assert result.tolist() == [0.0, 0.0, 0.0, 0.0]


async def test_kernel_is_found_again(options, host_compiler):
    """The compiler is the same for the next runtime, and so is the key."""
    tiers = []
    for _ in range(2):
        async with ajit.open_runtime(device="none", host_compiler=host_compiler, **options) as rt:
            tiers.append((await rt.resolve(saxpy(), arch=ARCH)).tier)

    assert tiers == ["compiled", "disk"]


async def test_mistake_in_the_source_is_an_error_with_the_compilers_words(options, host_compiler):
    """Which name the line."""
    async with ajit.open_runtime(device="none", host_compiler=host_compiler, **options) as rt:
        with pytest.raises(ajit.CompileError, match="expected") as caught:
            await rt.compile(SYNTAX_ERROR, arch=ARCH)

    assert ":3:" in caught.value.log


async def test_missing_kernel_is_named(options, host_compiler):
    """With those that there are, as the compiler tells: here the source hides the name."""
    hidden = "#define NAME nowhere2\n" + saxpy().source.replace("saxpy", "NAME")
    spec = ajit.Spec(hidden, "nowhere", params="float* x")
    async with ajit.open_runtime(device="none", host_compiler=host_compiler, **options) as rt:
        with pytest.raises(ajit.UnknownEntryPoint, match="nowhere"):
            await rt.compile(spec, arch=ARCH)


async def test_edited_header_makes_another_kernel(options, host_compiler, tmp_path):
    """What the compiler reads is seen, through whatever it is called by."""
    spec = ajit.Spec(WITH_HEADER, "k", include_dirs=[str(tmp_path)])
    made = []
    for factor in (1, 2, 1):
        (tmp_path / "factor.h").write_text(f"#define FACTOR {factor}\n")
        async with ajit.open_runtime(device="none", host_compiler=host_compiler, **options) as rt:
            found = await rt.resolve(spec, arch=ARCH)
            made.append((found.tier, found.artifact.key))

    assert [tier for tier, _ in made] == ["compiled", "compiled", "disk"]
    assert made[0][1] == made[2][1] != made[1][1]


@pytest.fixture
def fake(fake_compiler, options):
    """The fake, and a runtime's options with it."""
    options |= {"device": "none", "host_compiler": str(fake_compiler.path)}
    return fake_compiler


async def test_held_compile_waits(fake, options):
    """And goes on when it is let go; each compile is counted."""
    fake.hold()
    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: rt.compile(saxpy(), arch=ARCH))
        await fake.wait_started()
        assert rt.statistics().compiled == 0
        fake.let_go()
        assert (await rt.compile(saxpy(), arch=ARCH)).name == "saxpy"

    assert fake.started == 1
    assert "started=1" in repr(fake)


async def test_nobody_need_wait_at_the_gate(fake, options):
    """`let_go` without a compile that waits."""
    fake.hold()
    fake.let_go()
    async with ajit.open_runtime(**options) as rt:
        await rt.compile(saxpy(), arch=ARCH)


async def test_refused_source_is_an_error_with_the_log_that_was_given(fake, options):
    """As the compiler's own words would be; remembered as well."""
    fake.refuse("kernel.cu:7:1: error: the moon is in the wrong phase\n")
    async with ajit.open_runtime(**options) as rt:
        for _ in range(2):
            with pytest.raises(ajit.CompileError, match="wrong phase"):
                await rt.compile(saxpy(), arch=ARCH)
        assert fake.started == 1
        fake.recover()
        await rt.compile(saxpy(1), arch=ARCH)


async def test_compiler_that_is_killed_has_crashed(fake, options):
    """And the next one, once it is well again, has not."""
    fake.die_by("SEGV")
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.CompilerCrashed, match="SIGSEGV"):
            await rt.compile(saxpy(), arch=ARCH)
        fake.recover()
        await rt.compile(saxpy(), arch=ARCH)


async def test_units_are_answered_from_a_folder(fake, options, compiled_units):
    """What is there is not compiled again, and may be shared by the fakes of a session."""
    async with ajit.open_runtime(**options) as rt:
        made = await rt.compile(saxpy(), arch=ARCH)
        units = set(compiled_units.iterdir())
        again = await rt.compile(saxpy(3), arch=ARCH)

    assert made.data == again.data
    assert made.key != again.key
    assert set(compiled_units.iterdir()) == units


def test_folder_must_be_new(tmp_path):
    """Two fakes do not share switches by accident."""
    with pytest.raises(FileExistsError):
        FakeCompiler(tmp_path)
