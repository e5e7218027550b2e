"""What a warm-up makes ready: specs, the lines of a record, the keys of families, as items."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ajit._core.short_repr import short_repr
from ajit._core.spec_form import written_spec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence

    from ajit._core.events import Tier
    from ajit._core.record import Use
    from ajit._core.spec import Spec
    from ajit._runtime.kernels import Kernels
    from ajit._runtime.ranks import Ranks

__all__ = ["Item", "Listing", "Ready", "Replayer", "Unresolved", "Work", "item_of_spec"]


@dataclass(frozen=True, slots=True)
class Ready:
    """An item that is ready: its key, and the tier that it came from."""

    key: str
    tier: Tier


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A line of a record that leads to no kernel any more, and why. It is no failure.

    Attributes:
        name: What the line is about.
        kind: Its kind.
        reason: Why it was passed over.
    """

    name: str
    kind: str
    reason: str

    def __repr__(self) -> str:
        return short_repr(self)


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One kernel to be made ready.

    Attributes:
        what: Equal for items that are the same.
        name: A label.
        make: Makes it ready; is given a function to be called when it begins to wait for another
            compile.
        digest: Returns what all ranks call it, in a thread.
        spec: The spec, if it is one.
        kind: Of the record's line that it is from; "" if it is from none.
    """

    what: Hashable
    name: str
    make: Callable[[Callable[[], None]], Awaitable[Ready]]
    digest: Callable[[], str]
    spec: Spec | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a work comes to on this machine.

    Attributes:
        items: What is to be made ready, what is needed first before the others.
        unresolved: Lines that lead to nothing.
        skipped: Lines that are for other archs.
    """

    items: Sequence[Item] = ()
    unresolved: Sequence[Unresolved] = ()
    skipped: int = 0


class Work(ABC):
    """Something to be made ready: give it to `Runtime.warmup`, or to `ajit.ready`.

    Attributes:
        ranks: Which rank of how many does it.
    """

    ranks: Ranks

    @property
    @abstractmethod
    def scope(self) -> str:
        """What tells its group of ranks from others in the same cache."""

    @abstractmethod
    async def listing(self, kernels: Kernels) -> Listing:
        """List what is to be made ready. Blocks nothing."""


class Replayer(Protocol):
    """Makes a line of one kind ready."""

    async def __call__(
        self, kernels: Kernels, use: Use, texts: Mapping[str, str], on_wait: Callable[[], None]
    ) -> Ready:
        """Make it ready.

        Args:
            kernels: Of the runtime that warms up.
            use: The line.
            texts: Long texts that its build may name by their digest.
            on_wait: To be called when it begins to wait for another process.

        Raises:
            SpecError: The line leads to nothing any more.
            AjitError: It failed.
        """


def item_of_spec(spec: Spec, kernels: Kernels, *, arch: str | None = None, kind: str = "") -> Item:
    """Return the item of a spec."""

    async def make(on_wait: Callable[[], None]) -> Ready:
        return await kernels.warm(spec, on_wait, arch)

    def digest() -> str:
        build, _ = written_spec(spec)
        return hashlib.sha256(f"{arch}\0".encode() + build).hexdigest()

    return Item((spec, arch), spec.name, make, digest, spec, kind)
