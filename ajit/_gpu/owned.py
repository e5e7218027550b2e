"""What the CUDA thread made for Python: given back once, by hand or by the garbage collector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ajit._gpu.wire import Resource
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ajit._gpu.completion.port import CompletionPort

__all__ = ["Handled", "Owned"]


class Owned:
    """Something of the driver's that Python holds. Giving it back only posts (rule R3).

    It is given back by `free()`, by leaving a ``with`` block, by the garbage collector, or when the
    device closes, whichever comes first. The CUDA thread frees it in idle time, when nothing that
    was submitted before can be using it any more.
    """

    # `_lanes` has bit i set if work in lane i of the executor may be using it.
    __slots__ = ("__weakref__", "_freed", "_lanes", "_pointer", "_port", "_resource", "_thread")

    _called = "object"

    def __init__(self, port: CompletionPort, resource: int, lanes: int) -> None:
        self._port = port
        self._thread = port.thread
        self._resource = resource
        self._freed = False
        self._lanes = lanes
        self._pointer = int(Resource.from_address(resource).pointer) if resource else 0

    @property
    def freed(self) -> bool:
        """Whether it was given back, or its device was closed."""
        return self._freed or self._port.closed

    def free(self) -> None:
        """Give it back. May be called more than once; submitted work may still use it."""
        if not self._freed:
            self._freed = True
            resource, self._resource = self._resource, 0
            if resource:
                self._thread.gone += 1
                self._thread.post(resource, self._lanes)

    def _check(self) -> None:
        self._port.check_fork()
        if self.freed:
            raise ArgumentError(operation=f"use {self!r}", detail=f"the {self._called} was freed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.free()

    def __del__(self) -> None:
        if not getattr(self, "_freed", True):
            self.free()


class Handled(Owned):
    """Something of the driver's that has a handle which may be passed on."""

    __slots__ = ()

    @property
    def handle(self) -> int:
        """The driver's handle.

        Raises:
            ArgumentError: It was freed.
        """
        self._check()
        return self._pointer
