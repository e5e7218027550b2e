"""One event loop's membership of a CUDA thread: joined, served, left."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

from ajit._gpu.completion.thread import DeviceThread
from ajit._gpu.driver import driver_choices
from ajit._system.uncancelled import uncancelled
from ajit.errors import AjitError, NoDevice, RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._gpu.completion.port import CompletionPort
    from ajit.settings import Settings

__all__ = ["CLOSE_SECONDS", "ThreadMembership"]

CLOSE_SECONDS = 5.0
"""How long closing waits for tickets in flight. Arbitrary; a server's grace period is near 30 s."""


class ThreadMembership:
    """One loop's use of a CUDA thread, which other loops of the process may share.

    Attributes:
        thread: The CUDA thread.
        port: The loop's way to it and back.
    """

    def __init__(self, thread: DeviceThread, port: CompletionPort) -> None:
        self.thread, self.port = thread, port
        self._serving = anyio.CancelScope(shield=True)

    @classmethod
    async def join(cls, settings: Settings) -> ThreadMembership:
        """Join the thread of the device that the settings name; begin it if it does not run.

        The caller runs `serve` in a task, and calls `leave`.

        Raises:
            NoDevice: There is none; nothing stays behind.
            DeviceError: The driver could not be started; nothing stays behind.
        """
        *others, last = driver_choices(settings.device)
        for choice in others:
            try:
                thread = await DeviceThread.acquire(choice, settings)
                break
            except NoDevice:
                continue
        else:
            thread = await DeviceThread.acquire(last, settings)
        try:
            return cls(thread, thread.open_port())
        except BaseException:
            thread.release()
            raise

    async def serve(self) -> None:
        """Tell tasks that their tickets are done, until `leave`. trio needs it; others just sleep.

        Cancelling the task does not end it: `leave` itself waits for tickets, and a runtime is
        often closed because everything is being cancelled.
        """
        with self._serving:
            await self.port.serve()

    async def leave(self, free: Callable[[], None]) -> None:
        """Wait for tickets in flight, free everything of this loop, and leave the thread.

        Waits for at most `CLOSE_SECONDS`. May be called more than once. A cancellation does not
        interrupt it.

        Args:
            free: Called once the device is done with this loop's work: frees what the caller has.
        """
        if self.port.closed:
            return
        self.port.refusal = _closed
        self.thread.gone += 1  # buffers of this loop, in recordings of others, are gone as well
        with anyio.CancelScope(shield=True):
            await uncancelled(partial(self._leave, free))

    async def _leave(self, free: Callable[[], None]) -> None:
        """Leave; called again, it goes on where it was interrupted."""
        port, thread = self.port, self.thread
        if port.handle:
            with anyio.move_on_after(CLOSE_SECONDS):
                await port.wait_idle()
                free()
                await thread.close_port(port)
            self._serving.cancel()
            await checkpoint()  # so that no task waits for the descriptor when it is closed
            port.close()
            thread.release()
        with anyio.move_on_after(CLOSE_SECONDS):
            await thread.wait_ended()


def _closed() -> AjitError:
    return RuntimeClosed("the device was closed; nothing was started")
