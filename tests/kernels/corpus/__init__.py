"""Kernels that model servers compile at run time, with inputs, references and tolerances.

`CASES` is all of them; `by_name` finds one. The sources are unmodified CUDA C++, each specialised
by macros or template arguments in the way servers specialise theirs.
"""

from __future__ import annotations

from tests.kernels.corpus import attention, elementwise, matmul, norms, quantisation, reductions
from tests.kernels.corpus.case import EXACT, SOURCES, Argument, Array, Case, Launch, Tolerance

__all__ = [
    "CASES",
    "EXACT",
    "SOURCES",
    "Argument",
    "Array",
    "Case",
    "Launch",
    "Tolerance",
    "by_name",
]

CASES: tuple[Case, ...] = (
    *norms.CASES,
    *attention.CASES,
    *elementwise.CASES,
    *matmul.CASES,
    *reductions.CASES,
    *quantisation.CASES,
)


def by_name(name: str) -> Case:
    """Return the case of that name, or raise `KeyError`."""
    return {case.name: case for case in CASES}[name]
