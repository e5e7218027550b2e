"""One kernel of the corpus: what to compile, how to launch it, and what must come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

import ajit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["EXACT", "SOURCES", "Argument", "Array", "Case", "Launch", "Tolerance"]

SOURCES = Path(__file__).resolve().parent.parent / "sources"

Array: TypeAlias = npt.NDArray[Any]
Argument: TypeAlias = Array | int | float
"""A kernel's argument: an array stands for a pointer to its copy in device memory."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a result may lie from NumPy's: ``|actual - expected| <= atol + rtol * |expected|``.

    Attributes:
        rtol: Relative to the expected value.
        atol: Absolute.
        reason: Why it cannot be smaller.
    """

    rtol: float
    atol: float
    reason: str


EXACT = Tolerance(0.0, 0.0, "integers, copies, or operations that IEEE 754 rounds in one way only")


@dataclass(frozen=True, slots=True)
class Launch:
    """The shape of a launch; `shared_bytes` is dynamic shared memory."""

    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kernel with its inputs and its reference.

    Attributes:
        name: A name that is unique in the corpus.
        file: The source, below `SOURCES`.
        entry: The kernel's name, or the name expression of a template's instance.
        params: Its parameter list with macros replaced; the spec reads it from the source.
        launch: Grid, block and dynamic shared memory.
        inputs: Makes the arguments in order. Arrays that are only written start as zeros.
        expected: From the same arguments, the arrays that must come out, by argument position.
        tolerance: How far the result may be from `expected`.
        defines: The macros that specialise the source.
        cpu: Whether the CPU driver can run it.
    """

    name: str
    file: str
    entry: str
    params: str
    launch: Launch
    inputs: Callable[[np.random.Generator], tuple[Argument, ...]]
    expected: Callable[..., Mapping[int, Array]]
    tolerance: Tolerance
    defines: Mapping[str, str | int] = field(default_factory=dict)
    cpu: bool = True

    def __str__(self) -> str:
        return self.name

    def spec(self, **options: object) -> ajit.Spec:
        """The request for this kernel; `options` are further attributes of the spec."""
        return ajit.Spec(
            (SOURCES / self.file).read_text(),
            self.entry,
            name=self.name,
            defines=self.defines,
            include_dirs=[SOURCES],
            **options,
        )

    def arguments(self) -> tuple[Argument, ...]:
        """The arguments, the same ones on every call."""
        return self.inputs(np.random.default_rng(seed=20))

    def check(self, actual: Mapping[int, Array]) -> None:
        """Compare what a launch wrote, by argument position, with NumPy.

        Raises:
            AssertionError: An array is missing, has another type, or is too far off.
        """
        expected = self.expected(*self.arguments())

        assert expected.keys() <= actual.keys()
        for position, wanted in expected.items():
            found = actual[position]
            assert (wanted.dtype, wanted.shape) == (found.dtype, found.shape)
            np.testing.assert_allclose(
                _widened(found),
                _widened(wanted),
                rtol=self.tolerance.rtol,
                atol=self.tolerance.atol,
                err_msg=f"{self.name}, argument {position}",
            )


def _widened(array: Array) -> Array:
    """As float64, which holds every value of every narrower type exactly."""
    with np.errstate(invalid="ignore"):  # float32's signalling NaNs become quiet ones
        return array.astype(np.float64)
