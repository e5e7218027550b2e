"""ajit for code without an event loop: scripts, notebooks and tests.

`run` runs an async function with an open runtime. `open_blocking_runtime` keeps an event loop in a
thread (anyio's blocking portal), and gives a runtime whose calls block. The objects are the same:
a `Kernel` from it is launched by ``kernel[grid, block](...)`` in the calling thread: any thread may
submit. Only waiting for a ticket needs the loop; use `BlockingRuntime.wait` for that.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.from_thread import start_blocking_portal

from ajit._core.factory import FactoryMade
from ajit._runtime.open import open_runtime

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from typing import Concatenate, ParamSpec, Unpack

    from anyio.from_thread import BlockingPortal

    from ajit._core.entry import Artifact
    from ajit._core.spec import Spec
    from ajit._gpu.completion.ticket import Step, Ticket
    from ajit._gpu.device import Device
    from ajit._gpu.hostarray import HostArray
    from ajit._gpu.kernel import Kernel
    from ajit._gpu.memory import BufferSlice, DeviceBuffer
    from ajit._gpu.module import LoadedModule
    from ajit._runtime.runtime import Runtime
    from ajit._runtime.statistics import RuntimeStatistics
    from ajit._runtime.warmup import WarmupReport
    from ajit.settings import SettingsOptions

    P = ParamSpec("P")

__all__ = ["BlockingRuntime", "open_blocking_runtime", "run"]

T = TypeVar("T")


def run(
    main: Callable[Concatenate[Runtime, ...], Awaitable[T]],
    *args: object,
    backend: str = "asyncio",
    **settings: Unpack[SettingsOptions],
) -> T:
    """Open a runtime, run an async function with it, close it, and return the function's result.

    Args:
        main: Called as ``main(runtime, *args)``.
        *args: Its arguments.
        backend: ``asyncio`` or ``trio``.
        **settings: As for `open_runtime`.

    Raises:
        RuntimeError: The calling thread runs an event loop already: use `open_runtime` there.
        Exception: What `main` raised, or what `open_runtime` raised; then `main` was not called.
    """

    async def opened() -> T:
        async with open_runtime(**settings) as runtime:
            return await main(runtime, *args)

    return anyio.run(opened, backend=backend)


@contextmanager
def open_blocking_runtime(
    *, backend: str = "asyncio", **settings: Unpack[SettingsOptions]
) -> Iterator[BlockingRuntime]:
    """Open a runtime whose calls block the calling thread, with an event loop in a thread.

    Any thread may use it. Leaving the block closes it, as with `open_runtime`.

    Args:
        backend: ``asyncio`` or ``trio``.
        **settings: As for `open_runtime`.
    """
    with start_blocking_portal(backend) as portal:
        opening: Any = portal.call(partial(open_runtime, **settings))
        with portal.wrap_async_context_manager(opening) as runtime:
            yield BlockingRuntime.make(portal, runtime)


class BlockingRuntime(metaclass=FactoryMade, factory="ajit.open_blocking_runtime()"):
    """A runtime whose calls block. Get it with `open_blocking_runtime`.

    Each method calls the method of the same name of `Runtime` or `Device` and waits for it. It
    returns or raises the same.
    """

    def __init__(self, portal: BlockingPortal, runtime: Runtime) -> None:
        self._portal = portal
        self._runtime = runtime

    @property
    def device(self) -> Device:
        """The device, to submit to: ``rt.device.copy(...)``, ``rt.device.batch()``.

        Its coroutine functions are run with `call`.
        """
        return self._portal.call(lambda: self._runtime.device)

    def kernel(
        self,
        spec: Spec,
        *,
        entry: str | None = None,
        fallback: Spec | None = None,
        timeout: float | None = None,
        recache: bool = False,
    ) -> Kernel:
        """See `Runtime.kernel`."""
        return self.call(
            self._runtime.kernel,
            spec,
            entry=entry,
            fallback=fallback,
            timeout=timeout,
            recache=recache,
        )

    def module(self, spec: Spec, *, recache: bool = False) -> LoadedModule:
        """See `Runtime.module`."""
        return self.call(self._runtime.module, spec, recache=recache)

    def compile(self, spec: Spec, *, arch: str | None = None, recache: bool = False) -> Artifact:
        """See `Runtime.compile`."""
        return self.call(self._runtime.compile, spec, arch=arch, recache=recache)

    def warmup(self, specs: Iterable[Spec]) -> WarmupReport:
        """See `Runtime.warmup`."""
        return self.call(self._runtime.warmup, specs)

    def upload(self, obj: Any) -> DeviceBuffer:
        """See `Device.upload`."""
        return self.call(self.device.upload, obj)

    def download(self, buffer: DeviceBuffer | BufferSlice) -> HostArray:
        """See `Device.download`."""
        return self.call(self.device.download, buffer)

    def alloc(self, shape: Any, dtype: Any = None) -> DeviceBuffer:
        """See `Device.alloc`."""
        return self.call(self.device.alloc, shape, dtype)

    def synchronize(self) -> None:
        """See `Device.synchronize`."""
        self.call(self.device.synchronize)

    def wait(self, ticket: Ticket[T] | Step) -> T | None:
        """Wait for a ticket, or a step of one; return or raise what awaiting it does."""

        async def wait() -> Any:
            return await ticket

        result: T | None = self._portal.call(wait)
        return result

    def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run any coroutine function of the runtime or its device, and wait for it."""
        return self._portal.call(partial(function, *args, **kwargs))

    def statistics(self) -> RuntimeStatistics:
        """See `Runtime.statistics`."""
        return self._portal.call(self._runtime.statistics)

    def __repr__(self) -> str:
        return f"<BlockingRuntime {self._runtime!r}>"
