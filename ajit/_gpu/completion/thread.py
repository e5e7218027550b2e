"""The CUDA thread: one for each device context of the process.

A Python thread that spends its life inside ``ajit_serve``. It alone calls the driver. It is shared
by every event loop that opens the same device, for the context is the process's (the primary one),
and ends when the last of them leaves.

After a fork the child has no such thread: there every use raises `ForkedRuntime`.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from ajit._gpu import wire
from ajit._gpu.call import Call
from ajit._gpu.completion.port import CompletionPort
from ajit._gpu.completion.state import TicketState
from ajit._gpu.health import DeviceHealth, dump_signal, health_of
from ajit._gpu.pinned_budget import PinnedBudget
from ajit._gpu.statistics import ThreadStatistics, read_statistics
from ajit._system.loop import Promise
from ajit._system.numa import node_of_pci
from ajit.errors import AjitError, ForkedRuntime, RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._gpu.completion.ticket import Ticket
    from ajit._gpu.driver import DriverChoice
    from ajit.settings import Settings

__all__ = ["DeviceThread", "running_threads"]

T = TypeVar("T")

STOP_AGAIN_SECONDS = 0.05
"""How often the last to leave tries to put the stop into a full ring. Arbitrary."""


class DeviceThread:
    """Owner of the CUDA thread and its executor. Get it with `DeviceThread.acquire`.

    Attributes:
        choice: Driver and device.
        settings: Of the first that opened the device.
        handle: The executor's address.
        numbers: Numbers for tickets; unique over all loops.
        info: What the driver says about the device.
        numa_node: That a GPU is at; None where the machine does not say.
        pinned: How much page-locked memory the pools of its loops may hold.
        gone: Counts buffers and modules that were given back; while it stands still, what was alive
            before still is.
        forked: Whether this process is a fork of the one that made it.
        abandoned: Tickets that the device had not finished when the thread ended. What they use was
            not freed, and neither is the executor's memory.
    """

    def __init__(self, choice: DriverChoice, settings: Settings) -> None:
        self.choice = choice
        self.settings = settings
        self.numbers = itertools.count(1)
        self.pinned = PinnedBudget(settings.pinned_pool_bytes)
        self.forked = False
        self.gone = 0
        self.info = wire.DeviceInfo()
        self.numa_node: int | None = None
        self._library = wire.library()
        options = wire.Options(
            capacity=settings.ring_capacity,
            spin_ns=int(settings.spin_seconds * 1e9) if len(os.sched_getaffinity(0)) > 1 else 0,
            deadline_ns=int(settings.ticket_timeout_seconds * 1e9),
            memory_limit_bytes=settings.device_memory_limit_bytes,
            stall_ns=int(settings.stall_seconds * 1e9),
            pool_idle_ns=int(settings.device_memory_idle_seconds * 1e9),
            time_tickets=settings.time_tickets,
            plain_memory=settings.plain_device_memory,
            dump_signal=dump_signal() if settings.stall_seconds else 0,
            ordinal=choice.ordinal,
        )
        self.handle = self._library.create(os.fsencode(choice.path), ctypes.byref(options))
        if not self.handle:
            raise MemoryError("no memory for the executor of the CUDA thread")
        self.name = f"ajit-cuda-{choice.ordinal}"
        self.ports: weakref.WeakSet[CompletionPort] = weakref.WeakSet()
        self._users = 0
        self._calls: dict[int, Call[Any]] = {}
        self._lock = threading.Lock()  # guards the three below
        self._start_code: int | None = None
        self._ended = False
        self._watchers: list[Promise[None]] = []
        self.abandoned = 0
        self._thread = threading.Thread(target=self._main, name=self.name, daemon=True)

    # --- sharing --------------------------------------------------------------------------------

    @classmethod
    async def acquire(cls, choice: DriverChoice, settings: Settings) -> DeviceThread:
        """Return the thread of a device, started. Every acquire needs one `release`.

        Raises:
            NoDevice: There is no such driver or device here; nothing stays behind.
            DeviceError: The driver could not be started; nothing stays behind.
        """
        _poison_after_fork()
        with _registry_lock:
            thread = _registry.get(choice)
            if thread is None:
                thread = cls(choice, settings)
                thread._thread.start()  # it may be that none can be started
                _threads.add(thread)
                _registry[choice] = thread
            thread._users += 1
        try:
            await thread._wait_started()
        except BaseException:
            thread.release()
            raise
        return thread

    def release(self) -> None:
        """Leave; the last to leave stops the thread. Never blocks: see `wait_ended`."""
        with _registry_lock:
            self._users -= 1
            if self._users or self.forked:
                return
            if _registry.get(self.choice) is self:
                del _registry[self.choice]
        if self._ended:  # it never started
            return
        port = self._library.port_create(self.handle, 0, 0)
        if port:
            self._submit_stop(port)

    def _submit_stop(self, port: int) -> None:
        submission = wire.submission(port, next(self.numbers), wire.simple(wire.STOP))
        if self._library.submit(submission) == wire.FULL:
            # No event loop waits for a ring that a hanging driver keeps full.
            threading.Thread(
                target=self._keep_stopping, args=(port, submission), daemon=True
            ).start()
        else:
            self._library.port_release(port)

    def _keep_stopping(self, port: int, submission: bytes) -> None:
        while self._library.submit(submission) == wire.FULL and not self._ended:
            time.sleep(STOP_AGAIN_SECONDS)
        self._library.port_release(port)

    async def wait_ended(self) -> None:
        """Wait until the thread has ended, if no loop uses it any more."""
        if self._users == 0 and not self.forked:
            await self._wait(started=False)

    async def _wait_started(self) -> None:
        await self._wait(started=True)
        if self._start_code:
            raise self.choice.start_error(self._start_code, self._error_text())

    async def _wait(self, *, started: bool) -> None:
        promise: Promise[None] = Promise()
        with self._lock:
            ready = self._ended or (started and self._start_code is not None)
            if not ready:
                self._watchers.append(promise)
        if not ready:
            await promise.wait()

    # --- using ----------------------------------------------------------------------------------

    def open_port(self) -> CompletionPort:
        """Make a port for the running loop."""
        port = CompletionPort(self)
        self.ports.add(port)
        return port

    def post(self, resource: int, lanes: int = wire.ALL_LANES) -> None:
        """Give a resource back, from finalizers as well: never fails, never waits (R3).

        Args:
            resource: Its address.
            lanes: Bit i is set if work in lane i may be using it.
        """
        if not self.forked:
            self._library.post(self.handle, resource, lanes)

    def call(self, port: CompletionPort, function: Callable[[], T]) -> Ticket[Callable[[], T]]:
        """Run a function on the CUDA thread, after everything that was submitted before it.

        The ticket's result is a function that returns what the function returned, or raises what it
        raised.
        """
        number = next(self.numbers)
        call = self._calls[number] = Call(function)
        submission = wire.submission(port.handle, number, wire.simple(wire.CALL))
        try:
            name = f"call {getattr(function, '__qualname__', function)}"
            state = TicketState(number, name, call, lambda _: call.outcome)
            return port.submit(submission, state)
        except AjitError:
            del self._calls[number]
            raise

    async def close_port(self, port: CompletionPort) -> None:
        """Free all resources of a port whose tickets are done."""
        if self._ended or self.forked:
            return
        number = next(self.numbers)
        submission = wire.submission(port.handle, number, wire.simple(wire.CLOSE_PORT))
        await (await port.patiently(lambda: port.submit_last(submission, number)))

    @property
    def alive(self) -> bool:
        """Whether the thread has not ended: it may still call the driver."""
        return not self._ended

    @property
    def lost_code(self) -> int:
        """The sticky driver code, or 0."""
        address = self.handle + self._library.layout["executor_lost"]
        return ctypes.c_int.from_address(address).value

    def ended_error(self) -> AjitError:
        """What a submission to a stopped thread raises."""
        return RuntimeClosed(f"the CUDA thread {self.name} has ended; nothing was started")

    def statistics(self) -> ThreadStatistics:
        """Return counters and state."""
        counters = wire.Counters.from_address(self._address("counters"))
        return read_statistics(counters, self.health(), self.name, self._users, self._beat_path())

    def health(self) -> DeviceHealth:
        """Return how the thread is, without asking it."""
        tail, head = (_word(self._address(end)) for end in ("tail", "head"))
        address = _word(self._address("heartbeat"))
        return health_of(
            ctypes.string_at(address, wire.HEARTBEAT.size),
            alive=self.alive and self._start_code == 0 and not self.forked,
            stall_seconds=self.settings.stall_seconds,
            waiting=tail - head,
        )

    def _address(self, field: str) -> int:
        assert self.handle is not None
        return int(self.handle + self._library.layout[f"executor_{field}"])

    def _beat_path(self) -> str:
        fd = ctypes.c_int.from_address(self._address("heartbeat_fd")).value
        return f"/proc/{os.getpid()}/fd/{fd}" if fd >= 0 else ""

    def __repr__(self) -> str:
        state = "ended" if self._ended else "forked" if self.forked else "running"
        if self.lost_code:
            state = f"lost ({self.lost_code})"
        in_flight = self.statistics().in_flight
        return f"<DeviceThread {self.name} {state} loops={self._users} in_flight={in_flight}>"

    def __del__(self) -> None:
        # Only now is no buffer or module left that could post. Tickets that never retired may still
        # be written to by the driver: then the memory stays.
        if getattr(self, "handle", None) and self._ended and not self.abandoned:
            self._library.destroy(self.handle)

    # --- the thread itself ----------------------------------------------------------------------

    def _main(self) -> None:
        code = self._library.serve_begin(self.handle, self.name.encode())
        if code:
            self._announce(start_code=code, ended=True)
            return
        address = self.handle + self._library.layout["executor_info"]
        ctypes.memmove(ctypes.byref(self.info), address, ctypes.sizeof(self.info))
        if self.choice.kind == "cuda":
            domain, bus, device = self.info.pci
            self.numa_node = node_of_pci(f"{domain:04x}:{bus:02x}:{device:02x}.0")
        self._announce(start_code=0, ended=False)
        number = ctypes.c_uint64()
        while self._library.serve(self.handle, ctypes.byref(number)) == wire.CALL:
            self._calls.pop(number.value).run()
            self._library.serve_called(self.handle, 0)
        self.abandoned = self._library.serve_end(self.handle)
        self._announce(start_code=0, ended=True)

    def _announce(self, *, start_code: int, ended: bool) -> None:
        with self._lock:
            self._start_code, self._ended = start_code, ended
            watchers, self._watchers = self._watchers, []
        for promise in watchers:
            promise.resolve(None)

    def _error_text(self) -> str:
        address = self.handle + self._library.layout["executor_error"]
        return ctypes.string_at(address).decode(errors="replace")


_registry: dict[DriverChoice, DeviceThread] = {}
_registry_lock = threading.Lock()
_threads: weakref.WeakSet[DeviceThread] = weakref.WeakSet()


@functools.cache
def _poison_after_fork() -> None:
    os.register_at_fork(after_in_child=_poison)


def _poison() -> None:
    """In the child of a fork: the threads are not there, and their locks may be held for ever."""
    global _registry_lock  # noqa: PLW0603  # a lock that another thread held at the fork stays held
    _registry_lock = threading.Lock()
    _registry.clear()
    for thread in _threads:
        thread.forked = True
        for port in thread.ports:
            port.refusal = _forked


def _forked() -> AjitError:
    return ForkedRuntime(
        "this process is a fork of the one that opened the device; the CUDA thread stayed there, "
        "and the driver works there only. Start processes that need a device with spawn"
    )


def _word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def running_threads() -> list[str]:
    """Names of the CUDA threads of this process that have not ended."""
    return [thread.name for thread in _threads if not thread.forked and thread.alive]
