"""Checks of the devices: the GPU through NVIDIA's driver, and the CPU driver."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from ajit._gpu.device import open_device
from ajit.cli.findings import Check, Status
from ajit.cli.output import format_bytes
from ajit.errors import AjitError, NoDevice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit.settings import Settings

__all__ = ["check_devices"]


def check_devices(settings: Settings) -> Iterator[Check]:
    """Open each kind of device as a runtime would, and close it again."""
    gpu = settings.device if settings.device.startswith("cuda") else "cuda"
    yield _check("GPU", replace(settings, device=gpu))
    yield _check("CPU driver", replace(settings, device="cpu"))


def _check(name: str, settings: Settings) -> Check:
    try:
        return Check(name, "ok", anyio.run(_describe, settings))
    except NoDevice as exc:
        # Without a GPU, servers and tests run on the CPU driver; without that, they cannot run.
        status: Status = "absent" if settings.device != "cpu" else "problem"
        return Check(name, status, "none", exc.detail)
    except (AjitError, OSError) as exc:
        # OSError: the library that serves the CUDA thread is not built, or cannot be loaded.
        return Check(name, "problem", "cannot be opened", f"{exc} (source checkout: `make setup`)")


async def _describe(settings: Settings) -> str:
    async with open_device(settings) as device:
        memory = format_bytes(device.total_memory_bytes)
        return (
            f"{device.name}, {device.arch}, {memory}, CUDA {_cuda_version(device.driver_version)}"
        )


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
