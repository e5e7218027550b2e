"""The corpus itself: every case is well formed and deterministic, and can fail."""

from __future__ import annotations

import numpy as np
import pytest

import ajit
from tests.kernels.corpus import CASES, SOURCES, Case, by_name

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def test_names_are_unique() -> None:
    """No case hides another one."""
    assert len(CASES) == len({case.name for case in CASES})


def test_every_source_is_used() -> None:
    """No kernel lies in the folder without a case that runs it."""
    expected = {path.name for path in SOURCES.glob("*.cu")}

    assert expected == {case.file for case in CASES}


@every_case
def test_arguments_match_the_parameter_list(case: Case) -> None:
    """Arrays stand at pointers, numbers at values, and only pointers to non-const are written."""
    params = [param.strip() for param in case.params.split(",")]
    arguments = case.arguments()

    assert len(params) == len(arguments)
    for param, argument in zip(params, arguments, strict=True):
        assert ("*" in param) == isinstance(argument, np.ndarray)
    for position in case.expected(*arguments):
        assert not params[position].startswith("const")


@every_case
def test_parameters_are_read_from_the_source(case: Case) -> None:
    """Macros and template parameters are replaced: a spec finds what the case declares."""
    expected = ajit.EntryPoint(case.entry, case.params).params
    actual = case.spec().entry_point().params

    assert expected == actual


@every_case
def test_arguments_are_the_same_each_time(case: Case) -> None:
    """The launched and the checked numbers are the same, and references change nothing."""
    first, second = case.arguments(), case.arguments()
    case.expected(*second)

    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@every_case
def test_a_kernel_that_does_nothing_fails_the_check(case: Case) -> None:
    """The starting values of the outputs are not already the answer."""
    arguments = case.arguments()
    written = {position: arguments[position] for position in case.expected(*arguments)}

    with pytest.raises(AssertionError):
        case.check(written)


def test_check_refuses_another_type() -> None:
    """A float64 result with the right values is not what the kernel was to write."""
    case = by_name("reduce_sum")
    wide = {0: case.expected(*case.arguments())[0].astype(np.float64)}

    with pytest.raises(AssertionError):
        case.check(wide)
