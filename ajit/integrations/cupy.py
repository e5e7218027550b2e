"""CuPy: a backend for its cache of kernels, its own hook for that.

It keeps what CuPy compiles in ajit's cache, and lets one process compile what several ask for.
CuPy makes the key, from compiler, options and source. Compiles stay in the calling thread. There is
one backend for a process::

    with ajit.integrations.install("cupy", runtime=rt):
        kernel(...)
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ajit.errors import UsageError
from ajit.integrations._installed import Installed
from ajit.integrations._store import Store
from ajit.integrations._versions import is_tried, version_of

if TYPE_CHECKING:
    from ajit._runtime.blocking import BlockingRuntime
    from ajit._runtime.runtime import Runtime

__all__ = ["install"]

DISTRIBUTION = "cupy-cuda13x"


def install(runtime: Runtime | BlockingRuntime, *, turn_seconds: float | None = None) -> Installed:
    """Let CuPy keep its kernels in a runtime's cache. See `ajit.integrations.install`.

    Args:
        runtime: Whose cache. With a `Runtime`, use kernels in any thread but its event loop's.
        turn_seconds: How long others wait for a compile at most before they begin as well; None
            takes the setting ``patience_seconds``.

    Raises:
        ImportError: CuPy is not installed. Nothing was changed.
        UsageError: It is installed already. Nothing was changed.
    """
    if not is_tried(DISTRIBUTION):
        return Installed()
    from cupy.cuda import compiler  # noqa: PLC0415  # a peer, on first use

    before = compiler._kernel_cache_backend  # noqa: SLF001  # what its hook sets
    if type(before) is _class():
        raise UsageError("the adapter of CuPy is installed already: uninstall it first")
    version = f"{DISTRIBUTION} {version_of(DISTRIBUTION)}"
    store = Store(runtime, "cupy.cuda.compiler:compile", version, turn_seconds, "cupy")
    backend = _class()(store)
    compiler._set_kernel_cache_backend(backend)  # noqa: SLF001  # its hook

    def put_back() -> None:
        if compiler._kernel_cache_backend is backend:  # noqa: SLF001  # likewise
            compiler._set_kernel_cache_backend(before)  # noqa: SLF001  # likewise
        store.close()

    return Installed(put_back)


@functools.cache
def _class() -> Any:
    from cupy.cuda._compiler_cache import KernelCacheBackend  # noqa: PLC0415  # likewise

    class Backend(KernelCacheBackend):  # type: ignore[misc]  # it has no types
        """Kernels in ajit's cache."""

        def __init__(self, store: Store) -> None:
            self._store = store

        def load(self, name: str) -> bytes | None:
            """Return what was compiled; None: the caller compiles, and others wait for it."""
            return self._store.load(name)

        def save(self, name: str, cubin: bytes, source: str) -> None:
            """Keep it, and let the others have it."""
            del source  # the key has it
            self._store.save(name, bytes(cubin))

    return Backend
