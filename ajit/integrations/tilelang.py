"""TileLang: its kernels, under a lease and in ajit's cache.

`install` stands before ``KernelCache.cached`` for the backend ``tvm_ffi``, through which
``tilelang.compile`` and ``@tilelang.jit`` go. The key is TileLang's own, which has neither nvcc nor
the host's compiler in it: their digests are added. A hit loads the kernel from the bundle's view; a
miss compiles as ever, in the calling thread, while others wait. Errors of nvcc are had once.

TileLang compiles by itself: other backends than ``tvm_ffi`` for CUDA, with templates or a CUTLASS
that did not come with it, and where its cache is switched off.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from ajit._compile.recorder.digests import digests
from ajit._runtime.turns import Turn
from ajit.errors import CompileError, UsageError
from ajit.integrations._in_place import InPlaceAdapter, check_on_loop
from ajit.integrations._installed import GONE, Installed, Patch
from ajit.integrations._versions import is_tried

if TYPE_CHECKING:
    from pathlib import Path

    from ajit._runtime.blocking import BlockingRuntime
    from ajit._runtime.runtime import Runtime

__all__ = ["install"]

DISTRIBUTION = "tilelang"
FUNCTION = "tilelang.cache:cached"
COMPILE_ERROR = "Compilation error:"

_TOOLS = ("bin/nvcc", "bin/ptxas", "bin/cudafe++", "nvvm/bin/cicc")

_installed: list[_Adapter] = []


def install(runtime: Runtime | BlockingRuntime, *, on_loop: str = "raise") -> Installed:
    """Let TileLang compile through a runtime. See `ajit.integrations.install`.

    Args:
        runtime: Where kernels are looked for and kept.
        on_loop: What happens to a compile in the thread of the runtime's event loop, which would
            wait for itself: ``raise`` a `UsageError`, or ``warn`` and let TileLang compile alone.

    Raises:
        ImportError: TileLang is not installed. Nothing was changed.
        UsageError: It is installed already. Nothing was changed.
    """
    check_on_loop(on_loop)
    if _installed:
        raise UsageError("the adapter of TileLang is installed already: uninstall it first")
    if not is_tried(DISTRIBUTION):
        return Installed()
    from tilelang.cache.kernel_cache import KernelCache  # noqa: PLC0415  # a peer, on first use

    adapter = _Adapter(runtime, KernelCache, on_loop)
    _installed.append(adapter)
    return Installed(_installed.clear, *(patch.undo for patch in adapter.patches(KernelCache)))


class _Adapter(InPlaceAdapter):
    """What stands where three methods of TileLang's cache were."""

    def __init__(self, runtime: Runtime | BlockingRuntime, cache: Any, on_loop: str) -> None:
        super().__init__(
            runtime, distribution=DISTRIBUTION, peer="tilelang", function=FUNCTION, on_loop=on_loop
        )
        self._cached = cache.cached
        self._load = cache._load_kernel_from_disk  # noqa: SLF001  # where it asks for the kernel
        self._save = cache._save_kernel_to_disk  # noqa: SLF001  # and where it has it
        try:
            # Now, and not at the first kernel, whose waiters would be told later.
            self._tools: str | None = _digest_of_tools()
        except (OSError, RuntimeError):
            self._tools = None  # there is no toolkit, as TileLang will say
        self._this_thread = threading.local()

    def patches(self, cache: Any) -> list[Patch]:
        """Take hold of TileLang's cache."""
        adapter = self

        def cached(self: Any, *args: Any, **options: Any) -> Any:
            return adapter.compile(self, args, options)

        def load(self: Any, key: str, context: Any, *args: Any, **options: Any) -> Any:
            return adapter.load(self, key, context, args, options)

        def save(self: Any, key: str, *args: Any, **options: Any) -> None:
            adapter.save(self, key, args, options)

        return [
            Patch(cache, "cached", cached),
            Patch(cache, "_load_kernel_from_disk", load),
            Patch(cache, "_save_kernel_to_disk", save),
        ]

    def compile(self, cache: Any, args: Any, options: Any) -> Any:
        """As ``KernelCache.cached``; in the end no turn is left."""
        try:
            return self._cached(cache, *args, **options)
        except RuntimeError as exc:
            turn = self._take()
            if turn is not None and COMPILE_ERROR in str(exc):
                self.refuse(turn, str(exc))
            elif turn is not None:
                turn.give_back()
            raise
        finally:
            turn = self._take()
            if turn is not None:
                turn.give_back()

    def load(self, cache: Any, key: str, context: Any, args: Any, options: Any) -> Any:
        """As ``_load_kernel_from_disk``: None if the caller compiles, which is its turn then."""
        alone = partial(self._load, cache, key, context, *args, **options)
        if (
            self._tools is None
            or not _is_taken(cache, context)
            or not self.may_wait("a TileLang kernel", "compile it before, or in a thread")
        ):
            return alone()
        terms = dict(zip(_TERMS, args, strict=False)) | options
        name = getattr(terms.get("func"), "attrs", {}).get("global_symbol", "kernel")
        build = self.build(f"tilelang {name}", f"{key} {self._tools}")
        over = partial(_kernel_over, cache, key, context, terms)
        arch = str(context.target.attrs.get("arch", ""))
        try:
            found = self.found_or_made(build, arch, over, self._begun)
        except CompileError as exc:
            # TileLang's own error.
            raise RuntimeError(exc.log) from exc
        except GONE as exc:
            self.gone(exc)
            return alone()
        return None if isinstance(found, Turn) else found

    def save(self, cache: Any, key: str, args: Any, options: Any) -> None:
        """As ``_save_kernel_to_disk``; then the others may have it."""
        self._save(cache, key, *args, **options)
        turn = self._take()
        if turn is None:
            return
        folder = cache._get_cache_path(key)  # noqa: SLF001  # where it saves
        try:
            self.keep(turn, {name: _bytes_of(folder, name) for name in os.listdir(folder)})
        except OSError:  # it could not be saved, as TileLang has said
            turn.give_back()

    def _begun(self, turn: Turn) -> Turn:
        self._this_thread.turn = turn
        return turn

    def _take(self) -> Turn | None:
        turn: Turn | None = getattr(self._this_thread, "turn", None)
        self._this_thread.turn = None
        return turn


def _digest_of_tools() -> str:
    """What decides, and is not in TileLang's key. The compilers of a process stay the same."""
    from tilelang.contrib import cc, nvcc  # noqa: PLC0415  # a peer

    compiler = nvcc.get_nvcc_compiler()
    home = os.path.dirname(os.path.dirname(os.path.realpath(compiler)))
    tools = [os.path.join(home, name) for name in _TOOLS]
    tools.append(os.path.realpath(cc.get_cplus_compiler()))
    return " ".join(str(digests.get(path)) for path in tools)


_TERMS = ("out_idx", "pass_configs", "compile_flags", "func", "verbose")
"""What follows the context in ``_load_kernel_from_disk``."""


def _is_taken(cache: Any, context: Any) -> bool:
    from tilelang import env  # noqa: PLC0415  # a peer
    from tilelang.jit.adapter.kernel_cache import TVMFFIKernelCache  # noqa: PLC0415  # likewise

    read = (env.TILELANG_TEMPLATE_PATH, env.CUTLASS_INCLUDE_DIR)
    return (
        type(cache) is TVMFFIKernelCache
        and context.target.kind.name == "cuda"
        and all(os.path.realpath(path or "").startswith(_home()) for path in read)
    )


def _home() -> str:
    import tilelang  # noqa: PLC0415  # a peer

    return os.path.join(os.path.dirname(os.path.realpath(tilelang.__file__)), "")


def _kernel_over(cache: Any, key: str, context: Any, terms: dict[str, Any], view: Path) -> Any:
    """Return the kernel that the files of a view are, as ``_load_kernel_from_disk`` does."""
    from tilelang.engine.param import load_kernel_params  # noqa: PLC0415  # a peer
    from tilelang.jit.adapter.base import CachedTextSource  # noqa: PLC0415  # likewise

    kernel = cache._build_kernel(  # noqa: SLF001  # what makes kernels of its files
        func=terms.get("func"),
        host_kernel_source=CachedTextSource(path=str(view / cache.host_kernel_path)),
        device_kernel_source=CachedTextSource(path=str(view / cache.device_kernel_path)),
        kernel_lib_path=str(view / cache.kernel_lib_path),
        kernel_params=load_kernel_params((view / cache.params_path).read_text()),
        backend_context=context,
        out_idx=terms.get("out_idx"),
        pass_configs=terms.get("pass_configs"),
        compile_flags=terms.get("compile_flags"),
    )
    if kernel is not None:
        cache._tag_kernel_cache_entry(kernel, key, str(view))  # noqa: SLF001  # likewise
    return kernel


def _bytes_of(folder: str, name: str) -> bytes:
    with open(os.path.join(folder, name), "rb") as file:
        return file.read()
