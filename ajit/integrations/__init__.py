"""Other people's kernels through ajit: compiled once, waited for in sight, kept in one cache.

Each module here is the adapter of one *peer*, a library with a compiler and a cache of its own::

    import ajit.integrations

    with ajit.integrations.install("triton", "flashinfer", runtime=rt):
        serve()

Nothing is imported and nothing is changed before `install` is called, and `Installed.uninstall`, or
the end of the block, puts everything back. A version of a peer that was never tried gets one
`AjitWarning` and is left alone: it then works as if ajit were not there. It does so, too, once the
runtime is closed, and in a forked child.

What is taken over of which peer stands in docs/integrations.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ajit.errors import UsageError
from ajit.integrations._versions import TRIED

if TYPE_CHECKING:
    from ajit._runtime.blocking import BlockingRuntime
    from ajit._runtime.runtime import Runtime
    from ajit.integrations._installed import Installed

__all__ = ["INSTALLABLE", "TRIED", "install"]

INSTALLABLE = ("cupy", "flashinfer", "quack", "tilelang", "triton", "warp")
"""Peers that `install` takes. cuda.core has a hook of its own: see `cuda_core.program_cache`."""


def install(*peers: str, runtime: Runtime | BlockingRuntime, **options: Any) -> Installed:
    """Let peers compile through a runtime. The end of the context, or `uninstall`, ends that.

    It imports the peers, which may take seconds. In an event loop, call it in a thread:
    ``await anyio.to_thread.run_sync(partial(install, "triton", runtime=rt))``.

    Args:
        *peers: Of `INSTALLABLE`.
        runtime: Where they compile. With a `Runtime`, use the peers in any thread but its event
            loop's; with a `BlockingRuntime`, in any.
        **options: Of the adapter, if only one peer is given.

    Raises:
        UsageError: There is no such adapter, it is installed already, or the runtime is none.
            Nothing was changed.
        ImportError: The peer is not installed. Nothing was changed.
    """
    for peer in peers:
        if peer not in INSTALLABLE:
            raise UsageError(
                f"there is no adapter {peer!r} to install: one of {', '.join(INSTALLABLE)}"
                + ("; give cache=cuda_core.program_cache(rt)" if peer == "cuda_core" else "")
            )
    if options and len(peers) != 1:
        raise UsageError("options belong to one adapter: install it alone")
    from ajit.integrations._installed import Installed  # noqa: PLC0415  # imports the runtime

    installed = Installed()
    try:
        for peer in peers:
            module = importlib.import_module(f"ajit.integrations.{peer}")
            installed.add(module.install(runtime, **options))
    except BaseException:
        installed.uninstall()
        raise
    return installed
