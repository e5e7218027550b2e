"""The code behind a `LoadedModule`: what the driver loaded, and its end."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ajit._gpu import wire
from ajit.errors import LoadError, RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ajit._core.entry import Artifact
    from ajit._core.spec import EntryPoint
    from ajit._gpu.completion.port import CompletionPort
    from ajit._gpu.completion.ticket import Ticket
    from ajit.errors import AjitError

__all__ = ["LoadedCode", "load"]

_IMAGE_PADDING = 64
"""Drivers get an address without a size: no look for a header may leave the buffer."""
_ELF_SECTIONS = struct.Struct("<40xQ10xHH")
"""Of an ELF header: offset of the section table, size of one section's entry, their number."""

_HAS_PROC = Path("/proc/self/fd").exists()
"""Looked at here, in a thread that imports: a failed load is explained in an event loop."""


class LoadedCode:
    """What the driver loaded. It is unloaded once neither its module nor a kernel refers to it.

    Attributes:
        port: Of the loop that loaded it.
        name: Label of the spec, for messages.
        resource: Address of the executor's record of the module; 0 once it was unloaded.
        functions: Entry points, and the addresses of the executor's records of them, by name.
        on_unload: Called once it was unloaded, by the thread that unloads it; set by the runtime.
    """

    __slots__ = ("functions", "name", "on_unload", "port", "resource")

    def __init__(
        self, port: CompletionPort, resource: int, name: str, entries: Sequence[EntryPoint]
    ) -> None:
        self.port, self.resource, self.name = port, resource, name
        self.on_unload: Callable[[], object] = int  # nothing
        first = ctypes.addressof(wire.Resource.from_address(resource).functions.contents)
        size = ctypes.sizeof(wire.Function)
        self.functions = {entry.name: (entry, first + i * size) for i, entry in enumerate(entries)}

    @property
    def unloaded(self) -> bool:
        """Whether it was unloaded, or its device was closed."""
        return not self.resource or self.port.closed

    def unloaded_error(self) -> AjitError:
        """What using it raises once it is unloaded."""
        if self.port.closed:
            return self.port.closed_error()
        return RuntimeClosed(f"module {self.name!r} was unloaded; nothing was started")

    def unload(self) -> None:
        """Let the CUDA thread unload it. Only posts (rule R3); may be called more than once."""
        resource, self.resource = self.resource, 0
        if resource:
            thread = self.port.thread
            thread.gone += 1
            thread.post(resource)
            self.on_unload()

    def __del__(self) -> None:
        if getattr(self, "resource", 0):
            self.unload()


def load(
    port: CompletionPort,
    artifact: Artifact,
    entries: Sequence[EntryPoint],
    finish: Callable[[LoadedCode], Any],
) -> Ticket[Any]:
    """Submit the load of an artifact: the module, its entry points, and what is known of each.

    Everything is loaded eagerly, so that no first launch has to wait for the device.

    Args:
        port: Of the loop that loads it.
        artifact: What to load.
        entries: Its entry points, declared.
        finish: Makes the ticket's result.
    """
    _check_image(artifact)
    image = ctypes.create_string_buffer(artifact.data, len(artifact.data) + _IMAGE_PADDING)
    lowered = [artifact.lowered.get(entry.name, entry.name).encode() for entry in entries]
    names = (ctypes.c_char_p * len(lowered))(*lowered)
    operation = wire.LoadLayout.pack(
        wire.LOAD,
        wire.LoadLayout.size,
        ctypes.addressof(image),
        ctypes.addressof(names),
        len(lowered),
    )

    def made(resource: int) -> Any:
        return finish(LoadedCode(port, resource, artifact.name, entries))

    def explain(detail: int) -> str:
        return f"entry point {entries[detail - 1].name!r}" if detail else _called(artifact)

    state = port.new_state(f"load {artifact.name}", (image, names, lowered), made)
    state.explain = explain
    return port.submit_operations(operation, state)


def _called(artifact: Artifact) -> str:
    """What a module that cannot be loaded is called; with the reason, if that is not the module."""
    if artifact.kind == "elf" and not _HAS_PROC:
        return (
            "the CPU driver loads a module through /proc/self/fd, and /proc is not there: mount it"
        )
    return "the module"


def _check_image(artifact: Artifact) -> None:
    """Refuse an ELF image whose section table is not in it: a driver would read past the end.

    Entries are verified when they are read, so this is the last line of defence, not the first.
    """
    data = artifact.data
    if data[:4] != b"\x7fELF":
        return  # the driver says what it thinks of it
    ends = None
    if len(data) >= _ELF_SECTIONS.size:
        offset, size, count = _ELF_SECTIONS.unpack_from(data)
        ends = offset + size * count
    if ends is None or ends > len(data):
        detail = f"the image is cut short: {len(data)} bytes, its section table ends at {ends}"
        raise LoadError(operation=f"load {artifact.name}", detail=detail)
