"""What a ``with`` block ends: a lease, a wait, a membership."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["EndsWithBlock"]


class EndsWithBlock:
    """A mix-in: the object ends when its ``with`` block does, however the block is left.

    A subclass names the method that ends it, which may be called more than once::

        _end = release
    """

    def _end(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()
