"""FlashInfer: its modules as builds of ajit.

`install` stands before `JitSpecNvcc.build_and_load`, for everything that FlashInfer compiles with
nvcc. A module that came with an AOT package is loaded as ever. Any other is a `Build`: FlashInfer's
own ninja file, with each directory of this machine replaced by a name, run in a folder of its own.
What it read makes the key, so neither the age of a file nor the place of an installation decides
anything, and an upgraded toolkit or edited header does. The module is loaded from the bundle's
view on this node.

FlashInfer builds by itself, as if ajit were not there: CuTe kernels, modules that have cubins put
into them, and ``build()`` called by hand.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from ajit._core.build import Build, Command
from ajit._runtime import from_thread
from ajit._system.warn import warn_only
from ajit.errors import CompileError, UsageError
from ajit.integrations._installed import GONE, Installed, Patch, warn_gone
from ajit.integrations._ninja import place_names, renamed, searched
from ajit.integrations._store import builds_of
from ajit.integrations._versions import is_tried, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ajit._runtime.blocking import BlockingRuntime
    from ajit._runtime.runtime import Runtime

__all__ = ["build_of", "install", "warmup"]

DISTRIBUTION = "flashinfer-python"
PEER = "flashinfer"
GENERATED = "generated"

VARIABLES = (
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "LIBRARY_PATH",
    "NVCC_APPEND_FLAGS",
    "NVCC_CCBIN",
    "NVCC_PREPEND_FLAGS",
)
"""What compilers take from the environment, and a build has to be told."""

_adapter: _Adapter | None = None


def install(runtime: Runtime | BlockingRuntime, *, on_loop: str = "raise") -> Installed:
    """Let FlashInfer build through a runtime. See `ajit.integrations.install`.

    Args:
        runtime: Where modules are looked for, built and kept.
        on_loop: What happens to a build in the thread of the runtime's event loop, which would wait
            for itself: ``raise`` a `UsageError`, or ``warn`` and let FlashInfer build alone.

    Raises:
        ImportError: FlashInfer is not installed. Nothing was changed.
        UsageError: It is installed already. Nothing was changed.
    """
    global _adapter  # noqa: PLW0603  # what is installed in a process is one
    if on_loop not in ("raise", "warn"):
        raise UsageError(f"on_loop is {on_loop!r}, must be 'raise' or 'warn'")
    if _adapter is not None:
        raise UsageError("the adapter of FlashInfer is installed already: uninstall it first")
    if not is_tried(DISTRIBUTION):
        return Installed()
    from flashinfer.jit.core import JitSpecNvcc  # noqa: PLC0415  # a peer, on first use

    _adapter = adapter = _Adapter(runtime, on_loop)
    load = JitSpecNvcc.build_and_load
    fall_back = JitSpecNvcc._build_and_load_jit_fallback  # noqa: SLF001  # what an AOT module calls

    def build_and_load(self: Any) -> Any:
        loaded = self.try_load()
        return adapter.load(self, load) if loaded is None else loaded

    def build_and_load_jit_fallback(self: Any) -> Any:
        return adapter.load(self, fall_back)

    return Installed(
        _forget,
        Patch(JitSpecNvcc, "build_and_load", build_and_load).undo,
        Patch(JitSpecNvcc, "_build_and_load_jit_fallback", build_and_load_jit_fallback).undo,
    )


def _forget() -> None:
    global _adapter  # noqa: PLW0603  # likewise
    _adapter = None


async def warmup(specs: Iterable[Any], *, at_once: int | None = None) -> list[Any]:
    """Build modules off the event loop, several at once, without loading them.

    Args:
        specs: FlashInfer's, from its ``gen_*_module`` functions.
        at_once: How many are asked for at once; None: all. The runtime's slots bound what runs.

    Returns:
        For each, in order, the path of its library, or the exception that it ended with. A module
        that ajit leaves to FlashInfer has None.

    Raises:
        UsageError: The adapter is not installed; nothing was started.

    Cancelling waits for the builds that have begun; they are kept.
    """
    adapter = _adapter
    if adapter is None:
        raise UsageError(
            "install the adapter of FlashInfer first: ajit.integrations.install('flashinfer')"
        )
    wanted = list(specs)
    limiter = anyio.CapacityLimiter(at_once or max(1, len(wanted)))
    results: list[Any] = [None] * len(wanted)

    async def build_one(index: int, spec: Any) -> None:
        results[index] = await anyio.to_thread.run_sync(adapter.try_build, spec, limiter=limiter)

    async with anyio.create_task_group() as group:
        for index, spec in enumerate(wanted):
            group.start_soon(build_one, index, spec)
    return results


def build_of(spec: Any) -> Build | None:
    """Return the build of a `JitSpecNvcc`; None for one that ajit leaves to FlashInfer.

    Raises:
        OSError: There is no ninja, or a generated source cannot be read.
    """
    if spec.embedded_cubin_factory is not None:
        return None
    from flashinfer.jit import env  # noqa: PLC0415  # a peer
    from flashinfer.jit.cpp_ext import (  # noqa: PLC0415  # likewise
        generate_ninja_build_for_op,
        get_cuda_path,
    )

    text = generate_ninja_build_for_op(
        name=spec.name,
        sources=spec.sources,
        extra_cflags=spec.extra_cflags,
        extra_cuda_cflags=spec.extra_cuda_cflags,
        extra_ldflags=spec.extra_ldflags,
        extra_include_dirs=spec.extra_include_dirs,
        needs_device_linking=spec.needs_device_linking,
        extra_cuda_cflags_by_source=spec.extra_cuda_cflags_by_source,
    )
    ninja = _ninja()
    output = f"{Path(env.FLASHINFER_JIT_DIR / spec.name).resolve()}/"
    generated = os.path.realpath(env.FLASHINFER_GEN_SRC_DIR)
    # Both relative to where it runs: the compiler puts the path of its source into what it makes.
    text = text.replace(output, "").replace(f"{generated}/", f"{GENERATED}/")
    dirs = _dirs(spec, env, get_cuda_path(), text) | {"ninja": os.path.dirname(ninja)}
    return Build(
        spec.name,
        Command(
            ["{dir:ninja}/ninja", "-v", "-j", "{jobs}", "-f", "build.ninja"],
            env={name: os.environ[name] for name in VARIABLES if name in os.environ},
            files=_generated(spec.sources, generated),
            templates={"build.ninja": renamed(text, dirs)},
        ),
        [f"{spec.name}.so"],
        key_parts=[("adapter", "flashinfer 2")],
        dirs=dirs,
        jobs=_jobs(len(spec.sources)),
    )


def _dirs(spec: Any, env: Any, cuda: str, text: str) -> dict[str, str]:
    """The directories that a ninja file names, by what they are called in the key."""
    import flashinfer  # noqa: PLC0415  # a peer
    import tvm_ffi  # noqa: PLC0415  # likewise

    found = {
        "cuda": cuda,
        "flashinfer": os.path.dirname(flashinfer.__file__),
        GENERATED: str(env.FLASHINFER_GEN_SRC_DIR),
        "python": sysconfig.get_path("include"),
        "tvm_ffi": os.path.dirname(tvm_ffi.__file__),
    }
    sources = [str(Path(source).parent) for source in spec.sources]
    return place_names(found, [*sources, *searched(text)])


def _generated(sources: Iterable[Any], folder: str) -> dict[str, str]:
    """The texts in a build's folder: generated sources, and what was made with them.

    Their text, and not their place: so the key has it, and a record, which is replayed where this
    workspace is not, such as by another user.
    """
    names: set[str] = set()
    for source in sources:
        path = os.path.realpath(source)
        if not path.startswith(f"{folder}/"):
            continue
        top = os.path.relpath(path, folder).split("/")[0]
        if top == os.path.basename(path):
            names.add(top)
            continue
        for parent, _, files in os.walk(os.path.join(folder, top)):
            names |= {os.path.relpath(os.path.join(parent, name), folder) for name in files}
    return {f"{GENERATED}/{name}": _text(os.path.join(folder, name)) for name in sorted(names)}


def _text(path: str) -> str:
    with open(path, encoding="utf-8", newline="") as file:
        return file.read()


def _ninja() -> str:
    beside = os.path.join(sysconfig.get_path("scripts"), "ninja")
    found = shutil.which("ninja") or (beside if os.access(beside, os.X_OK) else None)
    if found is None:
        raise FileNotFoundError("FlashInfer builds with ninja, which is not on PATH")
    return os.path.realpath(found)


def _jobs(sources: int) -> int:
    most = os.environ.get("MAX_JOBS", "")
    return max(1, min(sources, int(most) if most.isdigit() else sources))


class _Adapter:
    """What stands where FlashInfer's builds were."""

    def __init__(self, runtime: Runtime | BlockingRuntime, on_loop: str) -> None:
        self.runtime = runtime
        self._on_loop = on_loop
        self._version = f"{DISTRIBUTION} {version_of(DISTRIBUTION)}"
        self._warned = False

    def load(self, spec: Any, original: Any) -> Any:
        """Return the loaded module of a spec, that no AOT package has."""
        alone = partial(original, spec)
        if os.environ.get("FLASHINFER_DISABLE_JIT") or not self._may_wait(spec):
            return alone()
        try:
            path = self.library(spec)
        except CompileError as exc:
            # FlashInfer's own error: some of its callers try something else then.
            raise RuntimeError(f"Ninja build failed. Ninja output:\n{exc.log}") from exc
        except GONE as exc:
            if not self._warned:
                self._warned = True
                warn_gone(self._version, exc)
            return alone()
        return alone() if path is None else spec.load(path)

    def library(self, spec: Any) -> Path | None:
        """Return the path of a module's library on this node; None if ajit leaves it alone."""
        build = build_of(spec)
        if build is None:
            return None
        return from_thread.call(self.runtime, partial(_view, build)) / f"{spec.name}.so"

    def try_build(self, spec: Any) -> Any:
        """The same, or what was raised."""
        try:
            return self.library(spec)
        except Exception as exc:  # noqa: BLE001  # reported, and does not stop the others
            return exc

    def _may_wait(self, spec: Any) -> bool:
        if self._on_loop == "warn" and from_thread.is_loop_thread(self.runtime):
            warn_only(
                f"FlashInfer module {spec.name!r} is built in the event loop's thread, which stops "
                f"meanwhile: await ajit.integrations.flashinfer.warmup(...) before"
            )
            return False
        return True


async def _view(build: Build, runtime: Runtime) -> Path:
    return await (await builds_of(runtime).build(build, peer=PEER)).materialize()
