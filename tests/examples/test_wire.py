"""The model server's wire format: what it accepts, and what it refuses before anything starts."""

from __future__ import annotations

import numpy as np
import pytest

from examples.model_server import wire


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_tensor_survives_the_wire(dtype: str) -> None:
    """Shape, dtype and every bit come back."""
    expected = np.random.default_rng(1).standard_normal((3, 8)).astype(dtype)

    body, headers = wire.encode(expected)
    actual = wire.decode(wire.Tensor.announced(headers), body)

    assert expected.dtype == actual.dtype
    np.testing.assert_array_equal(expected, actual)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-dtype": "float64", "x-shape": "2,8"},
        {"x-dtype": "float32"},
        {"x-dtype": "float32", "x-shape": "2"},
        {"x-dtype": "float32", "x-shape": "2,8,1"},
        {"x-dtype": "float32", "x-shape": "two,eight"},
        {"x-dtype": "float32", "x-shape": "0,8"},
        {"x-dtype": "float32", "x-shape": "-1,8"},
        {"x-dtype": "float32", "x-shape": f"{wire.MAX_TOKENS + 1},8"},
        {"x-dtype": "float32", "x-shape": f"2,{wire.MAX_WIDTH + 1}"},
    ],
    ids=str,
)
def test_a_malformed_announcement_is_refused(headers: dict[str, str]) -> None:
    """Missing, malformed and excessive headers are the client's mistake."""
    with pytest.raises(wire.BadRequest, match="expected"):
        wire.Tensor.announced(headers)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_body_of_another_length_is_refused(size: int) -> None:
    """Too few or too many bytes are never padded or cut."""
    tensor = wire.Tensor(tokens=2, width=8, dtype="float32")

    with pytest.raises(wire.BadRequest, match=f"{size} bytes"):
        wire.decode(tensor, bytes(size))


@pytest.mark.parametrize("features", ["", "x", "0", "1e3", str(wire.MAX_WIDTH + 1)])
def test_a_malformed_width_is_refused(features: str) -> None:
    """The width of the result must be a number within the limit."""
    with pytest.raises(wire.BadRequest, match="features"):
        wire.features_of({"features": features})
