"""Loaded modules: the code of an artifact on a device, and its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ajit._core.factory import FactoryMade
from ajit._gpu.kernel import Kernel
from ajit._gpu.loaded_code import load
from ajit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._core.entry import Artifact
    from ajit._core.spec import EntryPoint
    from ajit._gpu.completion.port import CompletionPort
    from ajit._gpu.completion.ticket import Ticket
    from ajit._gpu.loaded_code import LoadedCode

__all__ = ["LoadedModule", "load_module"]


class LoadedModule(metaclass=FactoryMade, factory="rt.module() or device.load()"):
    """The code of one artifact, loaded on one device.

    It is unloaded by `unload`, by the garbage collector once neither it nor one of its kernels is
    referred to, or when the device closes. Unloading never waits.

    Attributes:
        key: Of the artifact.
        name: Label of the spec.
        entry_points: In order, with their declared parameters.
    """

    def __init__(self, code: LoadedCode, artifact: Artifact, entries: Sequence[EntryPoint]) -> None:
        self.key = artifact.key
        self.name = artifact.name
        self.entry_points = tuple(entries)
        # No kernel is kept here: each refers to its module, and a cycle would wait for the
        # collector.
        self._inner = code

    def kernel(self, name: str | None = None) -> Kernel:
        """Return the kernel of an entry point, or of the only one.

        Raises:
            LoadError: The module has no such entry point, or there are several and none was named.
            RuntimeClosed: The module was unloaded.
        """
        code = self._inner
        if code.unloaded:
            raise code.unloaded_error()
        if name is None and len(code.functions) == 1:
            name = next(iter(code.functions))
        if name not in code.functions:
            raise LoadError(
                operation=f"find kernel {name!r} in module {self.name!r}",
                detail=f"it has {', '.join(code.functions)}",
            )
        return Kernel.make(self, *code.functions[name])

    @property
    def unloaded(self) -> bool:
        """Whether it was unloaded, or its device was closed."""
        return self._inner.unloaded

    def unload(self) -> None:
        """Unload the code. May be called more than once; submitted launches still run."""
        self._inner.unload()

    def __repr__(self) -> str:
        state = "unloaded" if self.unloaded else "loaded"
        return f"<LoadedModule {self.name!r} {state} entries=[{', '.join(self._inner.functions)}]>"


def load_module(
    port: CompletionPort, artifact: Artifact, entries: Sequence[EntryPoint]
) -> Ticket[LoadedModule]:
    """Submit the load of an artifact; see `load`."""
    return load(port, artifact, entries, lambda code: LoadedModule.make(code, artifact, entries))
