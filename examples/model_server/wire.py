"""What goes over HTTP: tensors as raw bytes, their shape and dtype in headers.

A request is ``POST /v1/infer?features=320`` with ``x-shape: 32,256``, ``x-dtype: float16`` and the
array's bytes in row-major, little-endian order; the answer has the same form. Raw bytes, because
JSON would cost more time than the kernels do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from examples.model_server.model import Array

__all__ = ["BadRequest", "Tensor", "decode", "encode", "features_of"]

DTYPES = ("float32", "float16")
MAX_TOKENS = 4096
MAX_WIDTH = 2048
"""A limit on what a client can make a worker compile and keep; pretty arbitrary."""


class BadRequest(ValueError):
    """The client's mistake. Nothing was compiled or launched."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """The shape and dtype of a two-dimensional array that is announced, checked."""

    tokens: int
    width: int
    dtype: str

    @classmethod
    def announced(cls, headers: Mapping[str, str]) -> Tensor:
        """Read ``x-shape`` and ``x-dtype``.

        Raises:
            BadRequest: One is missing, malformed or above a limit.
        """
        dtype = headers.get("x-dtype", "")
        if dtype not in DTYPES:
            raise BadRequest(f"x-dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
        shape = headers.get("x-shape", "")
        try:
            tokens, width = (int(part) for part in shape.split(","))
        except ValueError:
            raise BadRequest(f"x-shape is {shape!r}; expected 'tokens,hidden'") from None
        _check_between("tokens", tokens, MAX_TOKENS)
        _check_between("hidden", width, MAX_WIDTH)
        return cls(tokens, width, dtype)

    @property
    def size_bytes(self) -> int:
        """How long its bytes must be."""
        return self.tokens * self.width * np.dtype(self.dtype).itemsize


def features_of(query: Mapping[str, str]) -> int:
    """Read the width of the result that is asked for.

    Raises:
        BadRequest: It is missing, not a number or above a limit.
    """
    text = query.get("features", "")
    try:
        features = int(text)
    except ValueError:
        raise BadRequest(f"features is {text!r}; expected a number") from None
    _check_between("features", features, MAX_WIDTH)
    return features


def decode(tensor: Tensor, body: bytes) -> Array:
    """The array in `body`, without a copy.

    Raises:
        BadRequest: The body has another length than announced.
    """
    if len(body) != tensor.size_bytes:
        raise BadRequest(f"the body has {len(body)} bytes; x-shape makes {tensor.size_bytes}")
    return np.frombuffer(body, tensor.dtype).reshape(tensor.tokens, tensor.width)


def encode(array: Array) -> tuple[bytes, dict[str, str]]:
    """An array's bytes, and the headers that announce them."""
    headers = {
        "content-type": "application/octet-stream",
        "x-shape": ",".join(map(str, array.shape)),
        "x-dtype": array.dtype.name,
    }
    return array.tobytes(), headers


def _check_between(name: str, value: int, limit: int) -> None:
    if not 1 <= value <= limit:
        raise BadRequest(f"{name} is {value}; expected 1 to {limit}")
