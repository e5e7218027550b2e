"""Whether an entry point names an instance of the templates that a source has.

A template is no kernel until it has its arguments. NVRTC says so only after a compile, and in words
about the expression that was made of the name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ajit._core.short_repr import cut
from ajit._core.written import SHOWN
from ajit.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._core.cxx import KernelDeclaration

__all__ = ["check_instance"]

_OF_A_TYPE = re.compile(r"\s*+(?:typename|class)\b")


def check_instance(
    base: str, candidates: Sequence[KernelDeclaration], arguments: Sequence[str]
) -> None:
    """Check the template arguments of a kernel's name against all its declarations.

    Args:
        base: The name without arguments.
        candidates: What the source declares of that name, and nothing else does.
        arguments: The template arguments; ``("",)`` for ``k<>``, empty without angle brackets.

    Raises:
        SpecError: The name has no template arguments, or a number that no template takes.
    """
    heads = [found.template for found in candidates if found.template and not found.arguments]
    understood = all(head != ("?",) for head in heads)
    if not heads or not understood or any(found.template is None for found in candidates):
        return
    shown = cut(base, SHOWN)
    if not arguments:
        form = cut(f"{base}<{', '.join(map(_example, _needed(heads[0])))}>", SHOWN)
        raise SpecError(f"{shown} is a template; name an instance of it, such as {form}")
    if any(_has_no_number(head) for head in heads):
        return
    given = sum(map(bool, arguments))
    numbers = sorted({len(head) for head in heads})
    if given not in numbers:
        takes = " or ".join(map(str, numbers))
        plural = "" if takes == "1" else "s"
        raise SpecError(f"{shown} takes {takes} template argument{plural}, {given} given")


def _has_no_number(head: Sequence[str]) -> bool:
    """Whether a template takes more than one number of arguments."""
    return any("=" in parameter or "..." in parameter for parameter in head)


def _needed(head: Sequence[str]) -> Sequence[str]:
    """The parameters without a default; the first one, if all have one."""
    return [parameter for parameter in head if "=" not in parameter] or head[:1]


def _example(parameter: str) -> str:
    if _OF_A_TYPE.match(parameter):
        return "float"
    return "true" if re.match(r"\s*+bool\b", parameter) else "4"
