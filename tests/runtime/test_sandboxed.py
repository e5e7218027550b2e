"""Servers in a sandbox believe nothing that was compiled without one."""

from __future__ import annotations

import platform

import pytest

import ajit
from ajit._compile.worker import landlock

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(bool(landlock.missing()), reason=landlock.missing() or "-"),
]

WORDS = "words of my own"


@pytest.fixture
def options(tmp_path):
    """A cache, and the real compiler."""
    return {"cache_dir": str(tmp_path / "cache"), "patience_seconds": 300.0}


def spec_of(secret):
    """A kernel that includes a file by its path."""
    return ajit.Spec(f'#include "{secret}"\n__global__ void k(int* x) {{ *x = VALUE; }}', "k")


async def resolve(options, spec, **settings):
    """Resolve it as a process of its own would."""
    async with ajit.open_runtime(**{**options, "device": "none", **settings}) as rt:
        return await rt.resolve(spec, arch=platform.machine())


async def test_a_kernel_that_was_compiled_without_a_sandbox_is_not_served_in_one(options, tmp_path):
    """It may hold what must not be read here."""
    secret = tmp_path / "secret.h"
    secret.write_text("#define VALUE 7\n")
    compiled = await resolve(options, spec_of(secret))

    assert compiled.tier == "compiled"
    with pytest.raises(ajit.CompileError) as caught:
        await resolve(options, spec_of(secret), sandbox="landlock")
    assert "sandbox" in caught.value.__notes__[0]
    allowed = {"sandbox": "landlock", "sandbox_paths": str(tmp_path)}
    assert [(await resolve(options, spec_of(secret), **allowed)).tier for _ in range(2)] == [
        "compiled",
        "disk",
    ]


async def test_a_failure_without_a_sandbox_is_not_told_in_one(options, tmp_path):
    """Its log has lines of the file."""
    secret = tmp_path / "secret.h"
    secret.write_text(f"#error {WORDS}\n")
    logs = []
    for settings in ({}, {"sandbox": "landlock"}):
        with pytest.raises(ajit.CompileError) as caught:
            await resolve(options, spec_of(secret), **settings)
        logs.append(caught.value.log)

    assert WORDS in logs[0]
    assert WORDS not in logs[1]
