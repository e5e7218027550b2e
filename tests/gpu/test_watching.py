"""Those who watch tickets are told of each, and can neither fail nor hold up what they watch."""

from __future__ import annotations

import contextvars

import anyio
import pytest

from ajit.errors import AjitWarning, DeviceError
from tests.gpu.support import cpu_device

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

INVALID_VALUE = 1
asked = contextvars.ContextVar("asked", default="")


async def test_each_ticket_is_told_with_what_its_submission_noted():
    """In the context of the task that submitted it; until the watch is stopped."""
    told = []
    async with cpu_device() as device:
        stop = device._watch_tickets(
            lambda ticket, noted: told.append((ticket.operation, noted, ticket.outcome_name)),
            asked.get,
        )
        for name in ("a", "b"):
            asked.set(name)
            await device.upload(bytes(8))
        stop()
        await device.upload(bytes(8))

    assert [each for each in told if each[0].startswith("upload")] == [
        ("upload 8 bytes", "a", "done"),
        ("upload 8 bytes", "b", "done"),
    ]


async def test_a_ticket_that_fails_is_told_too(faults):
    """With its outcome, once."""
    told = []
    async with cpu_device() as device:
        buffer = await device.alloc(8)
        device._watch_tickets(lambda ticket, _: told.append(ticket.outcome_name))
        faults.inject("cuMemsetD8Async", INVALID_VALUE)
        with pytest.raises(DeviceError):
            await device.fill(buffer, 0)

    assert told.count("failed") == 1


async def test_a_watch_that_raises_is_reported_and_stops_nothing():
    """Where a ticket is submitted, and where it ends; the next watch is told all the same."""
    told = []

    def refuse(*_: object) -> None:
        raise ValueError("no")

    async with cpu_device() as device:
        device._watch_tickets(refuse, refuse)
        device._watch_tickets(lambda ticket, _: told.append(ticket.operation))
        with pytest.warns(AjitWarning, match="who watches tickets raised ValueError: no"):
            with anyio.fail_after(60):
                await device.upload(bytes(8))

    assert "upload 8 bytes" in told
