"""Which driver, which device: NVIDIA's driver library, or the CPU driver with the same functions.

Nothing here opens a library: the CUDA thread does that, in C, so that not even ``cuInit`` runs on a
thread that holds the GIL (rule R1).
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ajit._gpu.results import STICKY, code_name
from ajit._gpu.wire import NATIVE
from ajit.errors import AjitError, DeviceError, DeviceLost, ForkedRuntime, NoDevice

if TYPE_CHECKING:
    from ajit._gpu.wire import DeviceInfo

__all__ = ["DriverChoice", "DriverKind", "driver_choices"]

DriverKind = Literal["cuda", "cpu"]

CUDA_LIBRARY = "libcuda.so.1"
CPU_LIBRARY = "libajit_cpu_driver.so"

WAYS_OUT = 'without a GPU, open with device="cpu" or set AJIT_DEVICE=cpu (or auto)'

# The library is missing (-1), a stub, or finds no device. Any other code is a driver in trouble,
# and must not silently become a run on the CPU.
_THERE_IS_NONE = frozenset({-1, 34, 100})

# After cuInit, only in a fork.
_NOT_INITIALIZED = 3

# From compute capability 9.0 on, a build for the exact device may use its arch-specific features.
_FIRST_SPECIFIC_MAJOR = 9


@dataclass(frozen=True, slots=True)
class DriverChoice:
    """One device of one driver.

    Attributes:
        kind: ``cuda`` or ``cpu``.
        ordinal: The device's number.
        path: The library, as dlopen takes it.
    """

    kind: DriverKind
    ordinal: int
    path: str

    def arch(self, info: DeviceInfo) -> str:
        """Return the arch that code for this device is built for: ``x86_64``, ``sm_90a``, ..."""
        if self.kind == "cpu":
            machine = platform.machine()
            return {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
        specific = "a" if info.major >= _FIRST_SPECIFIC_MAJOR else ""
        return f"sm_{info.major}{info.minor}{specific}"

    def start_error(self, code: int, text: str) -> AjitError:
        """Return the exception for a driver that did not start."""
        operation = f"open device {self.kind}:{self.ordinal}"
        if code == _NOT_INITIALIZED:
            return ForkedRuntime(
                f"{operation}: the driver does not work in this process, a fork of one that had "
                f"used it. Start processes that need a device with spawn"
            )
        if code not in _THERE_IS_NONE:
            # The process keeps a lost context where the driver, or another library, does.
            kind, detail = DeviceError, text
            if code in STICKY:
                kind, detail = DeviceLost, "the device was lost in this process: end the process"
            return kind(operation=operation, code=code, code_name=code_name(code), detail=detail)
        way_out = WAYS_OUT
        if self.kind == "cpu":
            more = "AJIT_CPU_DEVICES says how many the CPU driver has"
            way_out = more if self.ordinal else "build it with `make setup`"
        return NoDevice(
            operation=operation,
            code=max(code, 0),
            code_name=code_name(code),
            detail="; ".join(part for part in (text, way_out) if part),
        )


def driver_choices(device: str) -> tuple[DriverChoice, ...]:
    """Return what a ``device`` setting stands for, in the order to try.

    Args:
        device: ``cuda``, ``cuda:N``, ``cpu``, ``cpu:N`` or ``auto``.

    Raises:
        NoDevice: The setting is ``none``; nothing was started.
    """
    if device == "none":
        raise NoDevice(
            operation="open device none", detail="this runtime was opened to compile only"
        )
    kind, _, ordinal = device.partition(":")
    cpu = DriverChoice("cpu", int(ordinal or 0), str(NATIVE / CPU_LIBRARY))
    if kind == "cpu":
        return (cpu,)
    cuda = DriverChoice("cuda", int(ordinal or 0), CUDA_LIBRARY)
    return (cuda, cpu) if device == "auto" else (cuda,)
