"""Batches as blocks, copies at once, and operations awaited one by one."""

from __future__ import annotations

import anyio
import pytest

from ajit.errors import ArgumentError, LaunchError, TicketTimeout
from tests.gpu.support import GRACE_SECONDS, cpu_device, kernels

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

INVALID_VALUE = 1
NOT_SUPPORTED = 801


async def test_a_block_is_one_submission():
    """Everything added in the block is submitted at once when the block is left."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        buffer, pinned = await device.alloc(8), await device.alloc_pinned(8)
        before = device.statistics().dispatched
        async with device.batch() as batch:
            batch.add_copy(buffer, (1).to_bytes(4, "little") * 2)
            batch.add_launch(add_one, 1, 2, buffer, 2)
            batch.add_copy(pinned, buffer)
        await batch.ticket

        assert device.statistics().dispatched == before + 1
        assert bytes(pinned.view()) == (2).to_bytes(4, "little") * 2


async def test_a_block_that_raises_submits_nothing():
    """Half a batch is never sent."""
    async with cpu_device() as device:
        before = device.statistics().dispatched
        buffer = await device.alloc(8)
        batch = device.batch()
        with pytest.raises(KeyError):
            await _raise_in(batch, buffer)
        await device.synchronize()

        assert batch.ticket is None
        assert device.statistics().dispatched == before + 2  # the allocation and the mark


@pytest.mark.parametrize("supported", [True, False])
async def test_many_copies_are_one_operation(faults, supported):
    """Pages are copied in one call of the driver, or one by one where it has no such call."""
    if not supported:
        faults.inject("cuMemcpyBatchAsync_v2", NOT_SUPPORTED)
    pages = [bytes([page]) * 100 for page in range(50)]
    async with cpu_device() as device:
        cache, out = await device.alloc(5000), bytearray(5000)
        async with device.batch() as batch:
            batch.add_copies((cache[i * 100 : i * 100 + 100], page) for i, page in enumerate(pages))
            batch.add_copies([])
        async with device.batch() as batch:
            whole = memoryview(out)
            batch.add_copies(
                (whole[i * 100 : i * 100 + 100], cache[i * 100 : i * 100 + 100]) for i in range(49)
            )
        await batch.ticket

        assert bytes(out) == b"".join(pages)[:4900] + bytes(100)


async def test_operations_of_a_batch_can_be_awaited_one_by_one(faults):
    """Layer by layer: a step is done before the batch is, and those before it are too."""
    async with cpu_device() as device:
        first, second = await device.alloc(4), await device.alloc(4)
        batch = device.batch(steps=True)
        batch.add_fill(first, 1)
        batch.add_fill(second, 2)
        batch.add_fill(first, 3)
        with faults.held():
            ticket = batch.submit()
            steps = [ticket.at(index) for index in range(3)]
            assert not any(step.done for step in steps)
            assert steps[0].seconds is None
            with anyio.move_on_after(0.02):
                await steps[0]
        async with anyio.create_task_group() as tasks:
            for step in steps:
                tasks.start_soon(_wait, step)
        await steps[0]
        await ticket

        assert all(step.done for step in steps)
        assert 0 < steps[0].seconds <= steps[1].seconds <= steps[2].seconds <= ticket.seconds
        with pytest.raises(IndexError):
            ticket.at(3)
        with pytest.raises(IndexError, match="steps=True"):
            device.mark().at(0)


async def _raise_in(batch, buffer):
    async with batch:
        batch.add_fill(buffer, 1)
        raise KeyError


async def _wait(step):
    await step


async def test_a_step_is_done_while_the_next_one_runs(faults):
    """Awaiting a step does not wait for what comes behind it."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        buffer = await device.upload(bytes(4))
        batch = device.batch(steps=True)
        batch.add_fill(buffer, 0)
        batch.add_launch(add_one, 1, 1, buffer, 1)
        with faults.stopped("device:launch"):
            ticket = batch.submit()
            await ticket.at(0)

            assert not ticket.done
        await ticket.at(1)
        await ticket


async def test_a_refused_operation_fails_its_step_and_those_behind(faults):
    """Steps before a refusal are done; the refused one and later ones raise the ticket's error."""
    async with cpu_device() as device:
        buffer = await device.alloc(4)
        add_one = (await kernels(device))("add_one")
        batch = device.batch(steps=True)
        batch.add_fill(buffer, 0)
        batch.add_launch(add_one, 1, 1, buffer, 1)
        batch.add_fill(buffer, 1)
        faults.inject("cuLaunchKernel", INVALID_VALUE)
        ticket = batch.submit()
        await ticket.at(0)
        for index in (1, 2):
            with pytest.raises(LaunchError, match="operation 1 of the batch"):
                await ticket.at(index)


async def test_a_ticket_has_a_timeout(faults):
    """A launch, a copy and a batch are overdue after their own time, not after the settings'."""
    async with cpu_device() as device:
        nothing = (await kernels(device))("nothing")
        buffer = await device.alloc(4)
        with faults.held():
            batch = device.batch(timeout=0.05)
            batch.add_fill(buffer, 1)
            tickets = [
                nothing.launch(1, 1, timeout=0.05),
                device.copy(buffer, bytes(4), timeout=0.05),
                batch.submit(),
            ]
            patient = device.mark()
            for ticket in tickets:
                with anyio.fail_after(GRACE_SECONDS), pytest.raises(TicketTimeout):
                    await ticket
            assert not patient.done
        await patient
        with pytest.raises(ArgumentError, match="timeout"):
            nothing.launch(1, 1, timeout=0.0)


async def test_a_timeout_holds_while_the_cuda_thread_hangs(faults):
    """A ticket behind a driver call that does not return is overdue in time."""
    async with cpu_device() as device:
        nothing = (await kernels(device))("nothing")
        with faults.stopped("cuLaunchKernel"):
            ticket = nothing.launch(1, 1, timeout=0.1)
            with anyio.fail_after(GRACE_SECONDS), pytest.raises(TicketTimeout):
                await ticket
