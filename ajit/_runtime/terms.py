"""Checks of what callers ask for, before anything is started."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ajit._core.build import Build
from ajit._core.params import parse_ctype
from ajit._core.spec import Spec
from ajit._runtime.work import Work
from ajit.errors import SpecError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ajit._core.events import Subscriber
    from ajit._core.spec import EntryPoint

__all__ = [
    "check_build",
    "check_fallback",
    "check_spec",
    "check_subscriber",
    "check_timeout",
    "checked_subscribers",
    "checked_work",
]


def check_spec(spec: object, what: str = "") -> None:
    """Refuse what is no spec.

    Args:
        spec: What was given.
        what: For which argument, where there are several.
    """
    if not isinstance(spec, Spec):
        begin = f"{what}: expected" if what else "expected"
        raise SpecError(f"{begin} an ajit.Spec, got {type(spec).__name__}")


def check_build(build: object) -> None:
    """Refuse what is no build."""
    if not isinstance(build, Build):
        raise SpecError(f"expected an ajit.Build, got {type(build).__name__}")


def checked_work(work: object) -> list[Spec | Work]:
    """Return what a warm-up is to make ready as a list."""
    if isinstance(work, Work):
        return [work]
    if isinstance(work, Spec):
        raise SpecError("warmup takes several specs, got one ajit.Spec: write warmup([spec])")
    listed = _listed(work)
    if listed is None:
        raise SpecError(f"warmup takes an iterable of ajit.Spec, got {type(work).__name__}")
    for each in listed:
        if not isinstance(each, Work):
            check_spec(each)
    return listed


def check_fallback(spec: Spec, fallback: Spec, entry: str | None) -> None:
    """Refuse a fallback that could not be launched with the arguments of the wanted kernel.

    Types are compared by kind and size: a ``float*`` stands in for an ``int*``. Where one of the
    two lists is not known there is nothing to compare.
    """
    check_spec(fallback, "fallback")
    wanted, other = spec.entry_point(entry), fallback.entry_point(entry)
    if wanted.params is None or other.params is None or _forms(wanted) == _forms(other):
        return
    raise SpecError(
        f"fallback {fallback.name!r} does not take the arguments of {spec.name!r}: "
        f"{other.name}({', '.join(other.params)}) is not like "
        f"{wanted.name}({', '.join(wanted.params)})"
    )


def check_timeout(timeout: object) -> None:
    """Refuse what is no number of seconds."""
    if timeout is not None and not (isinstance(timeout, int | float) and not math.isnan(timeout)):
        raise UsageError(f"timeout is {timeout!r}, must be a number of seconds, or None")


def check_subscriber(subscriber: object) -> None:
    """Refuse what cannot be called."""
    if not callable(subscriber):
        raise TypeError(f"expected a function of one event, got {type(subscriber).__name__}")


def checked_subscribers(subscribers: Iterable[Subscriber]) -> list[Subscriber]:
    """Return the subscribers of a new runtime as a list."""
    listed = _listed(subscribers)
    if listed is None:
        raise TypeError(
            f"subscribers: expected an iterable of functions, got {type(subscribers).__name__}"
        )
    for subscriber in listed:
        check_subscriber(subscriber)
    return listed


def _listed(values: Any) -> list[Any] | None:
    """Return the values as a list; None if they are no iterable."""
    try:
        iterator = iter(values)
    except TypeError:
        return None
    return list(iterator)


def _forms(entry: EntryPoint) -> list[tuple[str, int]]:
    types = [parse_ctype(param) for param in entry.params or ()]
    return [(ctype.kind, ctype.size_bytes) for ctype in types]
