"""Layouts: how a paged KV cache lies in memory, declared and reduced to strides.

A cache has six axes: layer, plane (keys, values), page, token, head, element. Engines differ in the
order in which they nest them, in which of the outer ones are tensors of their own, and in padding.
So a layout is one permutation of letters, and the strides follow from it; a chunk outside of the
device always nests them as ``LPTHD``. There are no cases for engines.

Nothing is guessed from the shape of a tensor: two layouts can have the same (fused keys and values
with two heads), and a wrong guess copies wrong bytes without an error (LMCache #4463, #4467).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from ajit._gpu.dtype import DTYPES, dtype_named
from ajit._gpu.page_format import PageFormat, PageIds, PageRow
from ajit.errors import ArgumentError, UsageError
from ajit.kv.axes import axes_of, joined
from ajit.kv.keys import Namespace, head_range
from ajit.kv.scales import Scales

__all__ = ["Layout", "axes_of"]

CHUNK_TOKENS: Final = 256
"""Of a chunk, unless told otherwise: what LMCache has, too."""
_AXES: Final = frozenset("LPBTHD")
_ALWAYS: Final = frozenset("BTHD")


@dataclass(frozen=True)
class Layout:
    """How a paged KV cache lies in memory.

    Attributes:
        layers: How many.
        heads: KV heads of each; 1 for MLA.
        dim: Elements of a head. MLA: of the latent vector with its rotary part.
        dtype: Of an element, a name or what numpy and torch have for it; 8-bit floats are bytes.
        page_tokens: Tokens of a page.
        planes: 2, keys and values; 1 for MLA.
        axes: Letters, the outermost first: ``L`` layer, ``P`` plane, ``B`` page, ``T`` token, ``H``
            head, ``D`` element. Without ``L``, or ``P``, each layer or plane is a tensor of its
            own; the tensors go layer by layer. See `axes_of`. vLLM's FlashAttention has ``PBTHD``.
        strides: Bytes from one to the next along an axis, by its letter, where memory is padded.
        chunk_tokens: Tokens of a chunk outside of the device, a multiple of a page's.
        scales: Those of quantised values, behind the values of each page and of each plane of a
            layer in a chunk; None: there are none.

    Raises:
        ArgumentError: It is none: an axis is missing or comes twice, elements do not lie side by
            side, a padded stride is smaller than what it strides over, or a number is below 1.
    """

    layers: int
    heads: int
    dim: int
    dtype: str
    page_tokens: int
    planes: int = 2
    axes: str = "PBTHD"
    strides: Mapping[str, int] = field(default_factory=dict, hash=False)
    chunk_tokens: int = CHUNK_TOKENS
    scales: Scales | None = None

    def __post_init__(self) -> None:
        """Check it."""
        object.__setattr__(self, "dtype", dtype_named(self.dtype, "describe a layout").name)
        object.__setattr__(self, "strides", MappingProxyType(dict(self.strides)))
        if fault := self._fault():
            raise ArgumentError(operation="describe a layout", detail=fault)

    # --- sizes ----------------------------------------------------------------------------------

    @property
    def row_bytes(self) -> int:
        """What a token has in one plane of one layer, without scales."""
        return self.heads * self.dim * self._itemsize

    @property
    def scale_bytes(self) -> int:
        """What the scales of a token take in one plane of one layer."""
        return 0 if self.scales is None else self.heads * self.scales.nbytes(self.dim)

    @property
    def chunk_bytes(self) -> int:
        """Size of a chunk."""
        return self.layers * self.planes * self._plane_bytes

    @property
    def _plane_bytes(self) -> int:
        """What a chunk has of one plane of one layer."""
        return self.chunk_tokens * (self.row_bytes + self.scale_bytes)

    @property
    def chunk_pages(self) -> int:
        """Pages of a chunk."""
        return self.chunk_tokens // self.page_tokens

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Axes of a chunk: layers, planes, tokens, heads, elements; with scales, L, P and bytes."""
        if self.scales is not None:
            return (self.layers, self.planes, self._plane_bytes)
        return (self.layers, self.planes, self.chunk_tokens, self.heads, self.dim)

    @property
    def chunk_format(self) -> str:
        """What decides about the bytes of a chunk, as a text: for a namespace of a store.

        Engines whose pages lie differently have the same, and can read each other's chunks.
        """
        sizes = (self.layers, self.planes, self.chunk_tokens, self.heads, self.dim)
        return f"kv1 LPTHD {'x'.join(map(str, sizes))} {self.chunk_dtype}"

    @property
    def chunk_dtype(self) -> str:
        """The type of the elements of a chunk, and of their scales."""
        scales = self.scales
        return self.dtype if scales is None else f"{self.dtype}+{scales.dtype}/{scales.block}"

    def namespace(
        self, model: str, weights: str, *, heads: tuple[int, int] | None = None, **others: str
    ) -> Namespace:
        """Return what chunks of this layout are called in a store: the geometry is its own.

        Args:
            model: See `Namespace`.
            weights: The same.
            heads: Which KV heads of the model these are, the first and the one after the last;
                None: from 0 on, as without tensor parallelism.
            **others: ``rope``, ``lora``, ``salt`` and ``extra`` of a `Namespace`.

        Raises:
            UsageError: There are not so many heads. Nothing was done.
        """
        first, stop = head_range(heads) if heads is not None else (0, self.heads)
        if stop - first != self.heads:
            raise UsageError(f"heads is {heads}; the layout has {self.heads} of them: {self!r}")
        return Namespace(
            model=model, weights=weights, dtype=self.chunk_dtype, layers=self.layers,
            planes=self.planes, heads=(first, stop), dim=self.dim, chunk_tokens=self.chunk_tokens,
            chunk_bytes=self.chunk_bytes, **others,
        )  # fmt: skip

    def check_namespace(self, namespace: Namespace) -> None:
        """Check that chunks of a namespace are those of this layout.

        Raises:
            UsageError: They are not; it says which field differs.
        """
        first, _ = namespace.heads
        mine = self.namespace("", "", heads=(first, first + self.heads))
        for name in ("dtype", "layers", "planes", "heads", "dim", "chunk_tokens", "chunk_bytes"):
            theirs, ours = getattr(namespace, name), getattr(mine, name)
            if theirs != ours:
                raise UsageError(
                    f"the chunks of namespace {namespace.model!r} are of another layout: "
                    f"their {name} is {theirs!r}, that of the pages {ours!r}; "
                    f"layout.namespace() makes one that fits"
                )

    @property
    def tensors(self) -> int:
        """How many tensors it takes."""
        layers = 1 if "L" in self.axes else self.layers
        return layers * (1 if "P" in self.axes else self.planes)

    def shape(self, pages: int) -> tuple[int, ...]:
        """Return the shape of a tensor with so many pages, without its padding.

        With scales it is one of bytes: what tokens have of all heads is the last axis.
        """
        sizes = self._sizes(pages)
        if self.scales is not None:
            outer = [sizes[axis] for axis in self.axes[:-3]]
            return (*outer, self.page_tokens, self.row_bytes + self.scale_bytes)
        return tuple(sizes[axis] for axis in self.axes)

    def tensor_bytes(self, pages: int) -> int:
        """Return the size of a tensor with so many pages: to the end of its last element."""
        strides, sizes = self._strides(pages), self._sizes(pages)
        last = sum((sizes[axis] - 1) * strides[axis] for axis in self.axes)
        return last + self._itemsize + self.page_tokens * self.scale_bytes

    def pages_in(self, nbytes: int) -> int:
        """Return how many pages a tensor of so many bytes has.

        Raises:
            ArgumentError: It has no whole number of them; say how many there are.
        """
        pages = self.most_pages(nbytes)
        outer = self.axes[0]
        padded = self._strides(pages)[outer] * self._sizes(pages)[outer]
        if pages < 1 or nbytes not in (padded, self.tensor_bytes(pages)):
            detail = f"{nbytes} bytes are no whole number of pages of {self!r}; say pages=..."
            raise ArgumentError(operation="count pages", detail=detail)
        return pages

    def most_pages(self, nbytes: int) -> int:
        """Return how many pages a tensor of so many bytes has room for."""
        low, high = 0, nbytes
        while low < high:
            middle = (low + high + 1) // 2
            if self.tensor_bytes(middle) <= nbytes:
                low = middle
            else:
                high = middle - 1
        return low

    # --- strides --------------------------------------------------------------------------------

    def format(self, pages: int) -> PageFormat:
        """Return the strides of a cache with so many pages.

        Raises:
            ArgumentError: There are none, or a padded stride is smaller than what it strides over.
        """
        if fault := self._stride_fault(pages):
            raise ArgumentError(operation="describe a layout", detail=fault)
        values = self._part(pages, self.dim * self._itemsize, 0, 0)
        if self.scales is None:
            return values
        behind = self.page_tokens * self.row_bytes, self.chunk_tokens * self.row_bytes
        return replace(values, beside=self._part(pages, self.scales.nbytes(self.dim), *behind))

    def _part(self, pages: int, head_bytes: int, in_page: int, in_chunk: int) -> PageFormat:
        """Return the strides of values, or of their scales.

        Args:
            pages: How many there are.
            head_bytes: What a head of a token has of it.
            in_page: Where it begins in a page.
            in_chunk: Where it begins in a plane of a layer of a chunk.
        """
        device, row_bytes = self._strides(pages), self.heads * head_bytes
        host = {"T": row_bytes, "H": head_bytes}
        if in_page:  # scales lie as values do that have no padding
            inner, outer = self.axes[-2], self.axes[-3]
            sizes = self._sizes(pages)
            device |= {inner: head_bytes, outer: head_bytes * sizes[inner]}
        rows = tuple(
            self._row((layer, plane), device, in_page, in_chunk)
            for layer in range(self.layers)
            for plane in range(self.planes)
        )
        page = joined(
            [(self.page_tokens, device["T"], host["T"]), (self.heads, device["H"], host["H"])],
            host["H"],
        )
        slot = joined([(self.heads, device["H"], host["H"])], host["H"])
        by_page = PageIds(pages, self.chunk_pages, self.page_tokens * host["T"], *page)
        by_slot = PageIds(
            pages * self.page_tokens, self.chunk_tokens, host["T"], *slot,
            self.page_tokens, device["T"],
        )  # fmt: skip
        return PageFormat(rows, pages, self.chunk_bytes, by_page, by_slot)

    def _row(
        self, place: tuple[int, int], device: Mapping[str, int], in_page: int, in_chunk: int
    ) -> PageRow:
        tensor, offset = 0, in_page
        layer, plane = place
        for axis, index, count in (("L", layer, self.layers), ("P", plane, self.planes)):
            if axis in self.axes:
                offset += index * device[axis]
            else:
                tensor = tensor * count + index
        number = layer * self.planes + plane
        return PageRow(tensor, offset, device["B"], number * self._plane_bytes + in_chunk)

    def _strides(self, pages: int) -> dict[str, int]:
        """Bytes from one to the next along each axis."""
        sizes, strides, stride = self._sizes(pages), {}, self._itemsize
        for axis in reversed(self.axes):
            strides[axis] = self.strides.get(axis, stride)
            stride = strides[axis] * sizes[axis]
            if axis == self.axes[-3]:
                stride += self.page_tokens * self.scale_bytes
        return strides

    def _sizes(self, pages: int) -> dict[str, int]:
        return {
            "L": self.layers, "P": self.planes, "B": pages, "T": self.page_tokens,
            "H": self.heads, "D": self.dim,
        }  # fmt: skip

    @property
    def _itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    # --- faults ---------------------------------------------------------------------------------

    def _fault(self) -> str:
        """Why it is no layout; empty: it is one."""
        axes = self.axes
        numbers = {**self._sizes(1), "chunk": self.chunk_tokens}
        if low := [name for name, number in numbers.items() if number < 1]:
            return f"{low[0]} has no extent: numbers begin with 1"
        if len(set(axes)) != len(axes) or not _ALWAYS <= set(axes) <= _AXES:
            return f"the axes {axes!r} have to be B, T, H, D, and L and P or not, each once"
        if axes[-1] != "D" or "D" in self.strides:
            return f"the axes {axes!r}: the elements of a head have to lie side by side, D last"
        if unknown := set(self.strides) - set(axes):
            return f"a stride for {min(unknown)!r}, which the axes {axes!r} do not have"
        if self.chunk_tokens % self.page_tokens:
            return f"a chunk of {self.chunk_tokens} tokens is no whole number of pages"
        return self._scales_fault() or self._stride_fault(1)

    def _scales_fault(self) -> str:
        if self.scales is None:
            return ""
        return self.scales.fault(self.dim, self._itemsize, self.axes, frozenset(self.strides))

    def _stride_fault(self, pages: int) -> str:
        if pages < 1:
            return "there are no pages"
        sizes, strides, needed = self._sizes(pages), self._strides(pages), self._itemsize
        for axis in reversed(self.axes):
            if strides[axis] < needed and sizes[axis] > 1:
                return (
                    f"the stride {strides[axis]} of {axis!r} is less than the {needed} bytes inside"
                )
            needed += (sizes[axis] - 1) * strides[axis]
            if axis == self.axes[-3]:
                needed += self.page_tokens * self.scale_bytes
        return ""
