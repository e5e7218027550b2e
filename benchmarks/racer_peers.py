"""The peers of the cold race that are libraries: cuda.core's cache, and a recipe with filelock.

Both compile in the process that asks, with NVRTC through cuda.core.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from benchmarks.racer_kernel import ARCH, SOURCE
from benchmarks.racer_protocol import Run

__all__ = ["compile_options", "with_cuda_core", "with_filelock"]


async def with_cuda_core(cache_dir: str, run: Run) -> None:
    """FileStreamProgramCache: look, compile, put. It has no lock."""
    from cuda.core import ObjectCode
    from cuda.core.utils import FileStreamProgramCache, make_program_cache_key

    cache = FileStreamProgramCache(Path(cache_dir) / "cuda-core")
    options = compile_options()

    def get() -> bool:
        key = make_program_cache_key(
            code=SOURCE,
            code_type="c++",
            options=options,
            target_type="cubin",
            extra_digest=b"one set of headers",
        )
        data = cache.get(key)
        if data is not None:
            ObjectCode.from_cubin(data)
            return False
        cache[key] = _compile(options)
        return True

    await run(lambda: _in_thread(get))


async def with_filelock(cache_dir: str, run: Run) -> None:
    """Lock, look, compile, write, rename, release: what many projects write for themselves."""
    from cuda.core import ObjectCode
    from filelock import FileLock

    path = Path(cache_dir) / "kernel.cubin"
    options = compile_options()

    def get() -> bool:
        with FileLock(path.with_suffix(".lock")):
            if path.exists():
                ObjectCode.from_cubin(path.read_bytes())
                return False
            temporary = path.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(_compile(options).code)
            temporary.replace(path)
            return True

    await run(lambda: _in_thread(get))


async def _in_thread(get: Any) -> dict[str, Any]:
    return {"compiled": await anyio.to_thread.run_sync(get)}


def compile_options() -> Any:
    """cuda.core's options for the race's kernel."""
    from cuda.core import ProgramOptions

    from ajit._compile.toolchains.toolchains import Toolchains
    from ajit.settings import Settings

    include_dirs = list(Toolchains(Settings()).find("nvrtc").include_dirs)
    return ProgramOptions(arch=ARCH, std="c++17", include_path=include_dirs)


def _compile(options: Any) -> Any:
    from cuda.core import Program

    return Program(SOURCE, "c++", options).compile("cubin")
