"""ajit for code without an event loop: scripts, notebooks and tests.

`run` runs an async function with an open runtime. `open_blocking_runtime` keeps an event loop in a
thread (`ajit._runtime.loop_thread`), and gives a runtime whose calls block. The objects are the
same: a `Kernel` from it is launched by ``kernel[grid, block](...)`` in the calling thread: any
thread may submit. Only waiting for a ticket needs the loop; use `BlockingRuntime.wait` for that.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar, overload

import anyio
from anyio.lowlevel import current_token

from ajit._core.factory import FactoryMade
from ajit._gpu.capturing import capturing
from ajit._runtime.loop_thread import LoopThread
from ajit._runtime.open import open_runtime
from ajit._runtime.terms import check_timeout
from ajit._system.patched import check_unpatched
from ajit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from pathlib import Path
    from typing import Concatenate, ParamSpec, Unpack

    from ajit._core.build import Build
    from ajit._core.entry import Artifact
    from ajit._core.spec import Spec
    from ajit._gpu.batch import Batch
    from ajit._gpu.completion.ticket import Step, Ticket
    from ajit._gpu.device import Device
    from ajit._gpu.graph import Graph
    from ajit._gpu.hostarray import HostArray
    from ajit._gpu.kernel import Kernel
    from ajit._gpu.memory import BufferSlice, DeviceBuffer
    from ajit._gpu.module import LoadedModule
    from ajit._runtime.builds import Bundle
    from ajit._runtime.runtime import Runtime
    from ajit._runtime.statistics import RuntimeStatistics
    from ajit._runtime.warmup import WarmupReport
    from ajit._runtime.work import Work
    from ajit.settings import SettingsOptions

    P = ParamSpec("P")

__all__ = ["BlockingRuntime", "open_blocking_runtime", "run"]

T = TypeVar("T")

BACKENDS = ("asyncio", "trio")


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
        UsageError: The calling thread runs an event loop already: use `open_runtime` there. Or
            there is no such backend. Nothing was started.
        PatchedThreads: gevent or eventlet has replaced this process's threads; nothing was started.
        Exception: What `main` raised, or what `open_runtime` raised; then `main` was not called.
    """
    check_unpatched()
    _check_backend(backend)
    _check_no_loop()

    async def opened() -> T:
        async with open_runtime(**settings) as runtime:
            return await main(runtime, *args)

    return anyio.run(opened, backend=backend)


def open_blocking_runtime(
    *, backend: str = "asyncio", **settings: Unpack[SettingsOptions]
) -> AbstractContextManager[BlockingRuntime]:
    """Open a runtime whose calls block the calling thread, with an event loop in a thread.

    Any thread may use it. Leaving the block closes it, as with `open_runtime`; calls of other
    threads that still wait then get `RuntimeClosed`. In a notebook, enter it by hand: a runtime
    that is never left is closed when the interpreter exits.

    Args:
        backend: ``asyncio`` or ``trio``.
        **settings: As for `open_runtime`.

    Raises:
        UsageError: There is no such backend; nothing was started.
        PatchedThreads: gevent or eventlet has replaced this process's threads; nothing was started.
    """
    check_unpatched()
    _check_backend(backend)
    return _Opening(backend, settings)


class _Opening(AbstractContextManager["BlockingRuntime"]):
    """The block of a blocking runtime."""

    def __init__(self, backend: str, settings: SettingsOptions) -> None:
        self._backend, self._settings = backend, settings
        self._loop: LoopThread[Runtime] | None = None

    def __enter__(self) -> BlockingRuntime:
        if self._loop is not None:
            raise UsageError("this runtime was opened before; call open_blocking_runtime() again")
        self._loop = LoopThread(self._backend, partial(open_runtime, **self._settings))
        return BlockingRuntime.make(self._loop)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._loop is None:
            return
        try:
            self._loop.close()
        except Exception as exc:
            if error is None:
                raise
            error.add_note(f"closing the runtime failed as well: {type(exc).__name__}: {exc}")


class BlockingRuntime(metaclass=FactoryMade, factory="ajit.open_blocking_runtime()"):
    """A runtime whose calls block. Get it with `open_blocking_runtime`.

    Each method calls the method of the same name of `Runtime` or `Device` and waits for it. It
    returns or raises the same. All raise `RuntimeClosed` once the block was left, `ForkedRuntime`
    in a forked child, and `UsageError` in the event loop's own thread; nothing was started then.
    """

    def __init__(self, loop: LoopThread[Runtime]) -> None:
        self._loop = loop
        self._runtime = loop.value

    @property
    def device(self) -> Device:
        """The device, to submit to: ``rt.device.copy(...)``, ``rt.device.fill(...)``.

        Its coroutine functions give a coroutine that runs nothing here: use the method of the same
        name of the runtime (`upload`, `download`, `alloc`, `synchronize`), or `call`, as in
        ``rt.call(rt.device.create_stream, priority=-1)``. For ``device.batch()`` and
        ``device.capture()`` as blocks there are `batch` and `capture`.
        """
        return self._loop.call_sync(lambda: self._runtime.device)

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

    def build(self, build: Build, *, recache: bool = False, background: bool = False) -> Bundle:
        """See `Runtime.build`; give the bundle to `materialize`."""
        return self.call(self._runtime.build, build, recache=recache, background=background)

    def materialize(self, bundle: Bundle) -> Path:
        """See `Bundle.materialize`."""
        return self.call(bundle.materialize)

    def warmup(self, specs: Iterable[Spec | Work] | Work) -> WarmupReport:
        """See `Runtime.warmup`."""
        return self.call(self._runtime.warmup, specs)

    def upload(self, obj: Any, *, stream: object = None) -> DeviceBuffer:
        """See `Device.upload`."""
        return self.call(self.device.upload, obj, stream=stream)

    @overload
    def download(
        self, buffer: DeviceBuffer | BufferSlice, out: None = None, *, stream: object = None
    ) -> HostArray: ...

    @overload
    def download(
        self, buffer: DeviceBuffer | BufferSlice, out: T, *, stream: object = None
    ) -> T: ...

    def download(
        self, buffer: DeviceBuffer | BufferSlice, out: Any = None, *, stream: object = None
    ) -> Any:
        """See `Device.download`."""
        return self.call(self.device.download, buffer, out, stream=stream)

    def alloc(self, shape: Any, dtype: Any = None) -> DeviceBuffer:
        """See `Device.alloc`."""
        return self.call(self.device.alloc, shape, dtype)

    def synchronize(self) -> None:
        """See `Device.synchronize`."""
        self.call(self.device.synchronize)

    @contextmanager
    def batch(
        self,
        *,
        steps: bool = False,
        stream: object = None,
        timeout: float | None = None,
        timed: bool = False,
    ) -> Iterator[Batch]:
        """Collect operations in a ``with`` block, and submit them as one at its end.

        Leaving the block waits for room in the queue, not for the device: that is
        ``rt.wait(batch.ticket)``. A block that raises submits nothing. Takes what `Device.batch`
        does::

            with rt.batch() as batch:
                batch.add_launch(kernel[grid, block], x, n)
                batch.add_copy(y, x)
            rt.wait(batch.ticket)
        """
        made = self.device.batch(steps=steps, stream=stream, timeout=timeout, timed=timed)
        self.call(made.__aenter__)
        try:
            yield made
        except BaseException as exc:
            self.call(made.__aexit__, type(exc), exc, exc.__traceback__)
            raise
        self.call(made.__aexit__, None, None, None)

    @contextmanager
    def capture(self) -> Iterator[Graph]:
        """Collect operations in a ``with`` block, and make a graph of them at its end.

        In the block, what would run at once instead of being recorded is refused, and a kernel
        that is not loaded is a `CaptureMiss`. A block that raises makes no graph. See
        `Device.capture`::

            with rt.capture() as graph:
                graph.add_launch(kernel[grid, block], x, n)
            rt.wait(graph.launch())
        """
        with ExitStack() as stack:
            graph = stack.enter_context(self._loop.enter(self.device.capture()))
            # Entering marked a task of the loop. The block runs in this thread: mark that, too.
            stack.enter_context(capturing())
            yield graph

    def wait(self, ticket: Ticket[T] | Step, *, timeout: float | None = None) -> T | None:
        """Wait for a ticket, or a step of one; return or raise what awaiting it does.

        Args:
            ticket: What a launch, a copy or a batch returned.
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: `timeout` has passed. Only this wait has ended: the device goes on with
                the work, and the ticket can be waited for again.
            TypeError: It is no ticket.
            UsageError: The timeout is no number of seconds.
        """
        # A coroutine is awaitable as well, but ending a wait for it would end it.
        kind: type = type(ticket)
        if kind is CoroutineType or not hasattr(kind, "__await__"):
            raise TypeError(
                f"expected a ticket, or a step of one, got {kind.__name__} "
                f"(coroutine functions are run by rt.call(function, ...))"
            )
        check_timeout(timeout)

        async def wait() -> T | None:
            with anyio.move_on_after(timeout):
                return await ticket
            raise TimeoutError(f"{ticket!r} is not done after {timeout:g} s; the work goes on")

        return self._loop.call(wait)

    def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run any coroutine function of the runtime or its device, and wait for it."""

        async def called() -> T:
            return await function(*args, **kwargs)

        return self._loop.call(called)

    def statistics(self) -> RuntimeStatistics:
        """See `Runtime.statistics`."""
        return self._loop.call_sync(self._runtime.statistics)

    def __repr__(self) -> str:
        return f"<BlockingRuntime {self._runtime!r}>"


def _check_backend(backend: object) -> None:
    if backend not in BACKENDS:
        raise UsageError(f"backend is {backend!r}, must be 'asyncio' or 'trio'")


def _check_no_loop() -> None:
    try:
        current_token()
    except anyio.NoEventLoopError:
        return
    raise UsageError(
        "ajit.run() was called inside a running event loop; use ajit.open_runtime there: "
        "async with ajit.open_runtime(...) as rt"
    )
