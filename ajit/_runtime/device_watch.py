"""Watches the CUDA thread's heartbeat, and emits events when it stalls, goes on, or is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio

from ajit._core.events import DeviceLost, DeviceResumed, DeviceStalled

if TYPE_CHECKING:
    from ajit._core.event import Emitter
    from ajit._gpu.device import Device
    from ajit._gpu.health import DeviceHealth

__all__ = ["DeviceWatch"]

WATCH_SECONDS = 1.0
"""Between two looks, which read a few words of memory. Pretty arbitrary."""

REPEAT_SECONDS = 10.0
"""How long after an event about a stall the next one is emitted."""


class DeviceWatch:
    """Looks at one device's health. Belongs to the runtime's event loop.

    Args:
        device: The runtime's.
        emitter: Takes the events.
    """

    def __init__(self, device: Device, emitter: Emitter) -> None:
        self._device = device
        self._emitter = emitter
        self._lost = False
        self._stalled_since: float | None = None
        self._due = 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await anyio.sleep(WATCH_SECONDS)
            if self._emitter.listening:
                self.look(self._device.health(), time.monotonic())

    def look(self, health: DeviceHealth, now: float) -> None:
        """Emit what is new.

        Args:
            health: How the thread is.
            now: Monotonic.
        """
        if health.lost_code and not self._lost:
            self._lost = True
            lost = DeviceLost(name=self._device.name, key="", code=health.lost_code)
            self._emitter.emit(lost)
        if health.stuck:
            self._tell_stalled(health, now)
        elif self._stalled_since is not None:
            since, self._stalled_since = self._stalled_since, None
            self._emitter.emit(DeviceResumed(name="", key="", seconds=now - since))

    def _tell_stalled(self, health: DeviceHealth, now: float) -> None:
        if self._stalled_since is None:
            self._stalled_since, self._due = now, now
        if now >= self._due:
            self._due = now + REPEAT_SECONDS
            stalled = DeviceStalled(
                name="",
                key="",
                operation=health.operation,
                seconds=health.since_seconds,
                in_flight=health.in_flight,
            )
            self._emitter.emit(stalled)
