"""How a Triton kernel is compiled again at a later start: its function by name, and the rest.

A recipe is a text in the line of a record. It has ``module:qualname`` of the function, signature,
constexprs, attributes, target, and those options that are not the backend's own: these may have
paths of a machine. There is none of a kernel that such a text does not make again: of a function in
``__main__`` or within another one, of values that are neither plain nor Triton's own. The text is
checked when it is written, by making the same of it.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any, NamedTuple

from ajit.errors import SpecError

__all__ = ["Remade", "recipe_of", "remade"]

_PLAIN = (bool, int, float, str, type(None))
_MOST_WRAPPERS = 10
"""Of a function: autotuning, heuristics. Pretty arbitrary."""


class _NoRecipe(Exception):
    """Something has no text."""


class Remade(NamedTuple):
    """The arguments of ``triton.compile``."""

    source: Any
    target: Any
    options: dict[str, Any]


def recipe_of(source: Any, target: Any, options: Any) -> str:
    """Return the recipe of a compile, or "" if there is none.

    Args:
        source: An `ASTSource`.
        target: The `GPUTarget`.
        options: As the compile was given them.
    """
    try:
        text = _written(source, target, options)
        again = remade(text)
    except (_NoRecipe, SpecError, TypeError, ValueError):
        return ""
    same = again.source.hash() == source.hash() and _parsed(again) == _parsed(
        Remade(source, target, dict(options or {}))
    )
    return text if same else ""


def _written(source: Any, target: Any, options: Any) -> str:
    defaults = vars(_backend(target).parse_options({}))
    own = {name: value for name, value in (options or {}).items() if defaults.get(name) != value}
    return json.dumps(
        {
            "function": _name_of(source.fn),
            "signature": _encoded(dict(source.signature)),
            "constexprs": _encoded(dict(source.constants)),
            "attrs": _encoded(dict(source.attrs)),
            "options": _encoded(dict(sorted(own.items()))),
            "target": [target.backend, target.arch, target.warp_size],
        }
    )


def remade(text: str) -> Remade:
    """Return what a recipe says. Imports the function's module.

    Raises:
        SpecError: There is no such function any more, or it is no recipe.
    """
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415  # a peer
    from triton.compiler import ASTSource  # noqa: PLC0415  # likewise

    try:
        told = json.loads(text)
        signature, constexprs, attrs, options = (
            _decoded(told[name]) for name in ("signature", "constexprs", "attrs", "options")
        )
        source = ASTSource(_function(told["function"]), signature, constexprs, attrs)
        return Remade(source, GPUTarget(*told["target"]), options)
    except (ValueError, KeyError, TypeError, AssertionError, AttributeError) as exc:
        raise SpecError(f"its recipe is damaged: {type(exc).__name__}: {exc}") from exc


def _backend(target: Any) -> Any:
    from triton.compiler import compiler  # noqa: PLC0415  # a peer

    return compiler.make_backend(target)


def _parsed(made: Remade) -> dict[str, Any]:
    return dict(vars(_backend(made.target).parse_options(made.options)))


def _name_of(function: Any) -> str:
    name = f"{function.__module__}:{function.__qualname__}"
    if function.__module__ not in sys.modules or function.__module__ == "__main__":
        raise _NoRecipe(name)
    if _function(name) is not function:
        raise _NoRecipe(name)
    return name


def _function(name: str) -> Any:
    """Return the function with ``@triton.jit`` of a name, without what is wrapped around it.

    Raises:
        SpecError: There is none.
    """
    from triton.runtime.jit import JITFunction  # noqa: PLC0415  # a peer

    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as exc:  # whatever the user's module raises
        raise SpecError(f"{module} cannot be imported: {type(exc).__name__}: {exc}") from exc
    for part in path.split("."):
        found = getattr(found, part, None)
    for _ in range(_MOST_WRAPPERS):
        if isinstance(found, JITFunction):
            return found
        found = getattr(found, "fn", None)
    raise SpecError(f"{name} is no function with @triton.jit")


def _encoded(value: Any) -> Any:
    """Return what JSON has for a value; what it has not is an object with one name."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list:
        return [_encoded(each) for each in value]
    if kind is tuple:
        return {"tuple": [_encoded(each) for each in value]}
    if kind is dict:
        return {"dict": [[_encoded(name), _encoded(each)] for name, each in value.items()]}
    return _encoded_of_triton(value)


def _encoded_of_triton(value: Any) -> Any:
    from triton.language import constexpr, dtype  # noqa: PLC0415  # a peer
    from triton.runtime.jit import JITFunction  # noqa: PLC0415  # likewise

    if type(value) is dtype:
        return {"dtype": value.name}
    if type(value) is constexpr:
        return {"constexpr": _encoded(value.value)}
    if isinstance(value, JITFunction):
        return {"function": _name_of(value)}
    raise _NoRecipe(type(value).__name__)


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if not isinstance(value, dict):
        return value
    from triton.language import constexpr, dtype  # noqa: PLC0415  # a peer

    ((kind, inner),) = value.items()
    makers: dict[str, Any] = {
        "tuple": lambda: tuple(_decoded(inner)),
        "dict": lambda: {_decoded(name): _decoded(each) for name, each in inner},
        "dtype": lambda: dtype(inner),
        "constexpr": lambda: constexpr(_decoded(inner)),
        "function": lambda: _function(inner),
    }
    return makers[kind]()
