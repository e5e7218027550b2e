"""Families: kernels that are specialised by shape and dtype, and which of them to warm.

A family says how inputs become a *compile key* (a frozen dataclass), how a key becomes a spec, and
which keys a configuration will need. `Family` is ajit's own form of it. Whatever has the methods
``dispatch``, ``get_warmup_keys`` and ``compile``, as vLLM's warmable kernels have, is taken as it
is: its ``compile(compile_key)`` is called in a thread.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from ajit._core.spec import Spec, SpecOptions
from ajit.errors import SpecError, UsageError

if TYPE_CHECKING:
    from ajit._core.entry import Artifact
    from ajit._gpu.kernel import Kernel
    from ajit._runtime.runtime import Runtime

__all__ = ["Family", "Provider", "check_key"]

K = TypeVar("K")


@runtime_checkable
class Provider(Protocol):
    """Anything that knows its keys, and compiles one of them in the calling thread."""

    def dispatch(self, *args: Any, **inputs: Any) -> Any:
        """Return the compile key of inputs: frozen, hashable, compared by value."""

    def get_warmup_keys(self, *args: Any, **kwargs: Any) -> Iterable[Any]:
        """Return the keys that a configuration needs."""

    def compile(self, compile_key: Any) -> object:
        """Compile one key. May block for as long as that takes."""


class Family(Generic[K]):
    """A kernel that is specialised by shape and dtype.

    Args:
        name: A label, which tells it from other families.
        spec: Makes the spec of a compile key; called once for each key.
        dispatch: Makes the compile key of inputs, which are keywords: pure, and quick, for each
            launch asks it.
        keys: Returns the keys that a configuration needs, repeated ones as often as they come; None
            if that is not known beforehand.

    Example::

        @dataclass(frozen=True)
        class Key:
            hidden: int
            dtype: str

        RMS_NORM = ajit.Family.of_source(
            SOURCE, "rms_norm", key=Key,
            dispatch=lambda x: Key(x.shape[1], x.dtype.name),
            keys=lambda config: [Key(config.hidden, config.dtype)],
        )
        await rt.warmup(ajit.families([RMS_NORM], config=config))
        kernel = await RMS_NORM.kernel(rt, x=x)
    """

    def __init__(
        self,
        name: str,
        spec: Callable[[K], Spec],
        *,
        dispatch: Callable[..., K],
        keys: Callable[..., Iterable[K]] | None = None,
    ) -> None:
        self.name = name
        self._make, self._dispatch, self._keys = spec, dispatch, keys
        self._specs: dict[K, Spec] = {}

    @classmethod
    def of_source(
        cls,
        source: str,
        entry: str,
        *,
        key: type[K],
        dispatch: Callable[..., K],
        keys: Callable[..., Iterable[K]] | None = None,
        macros: Callable[[K], Mapping[str, object]] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> Family[K]:
        """Make a family of one source, which the fields of a key specialise.

        Args:
            source: CUDA C++ text.
            entry: Name of the kernel; of a template a name expression in which ``{field}`` stands
                for a field of the key, such as ``"scale<{dtype}, {width}>"``.
            key: The class of the keys: a frozen dataclass.
            dispatch: As for `Family`.
            keys: As for `Family`.
            macros: Macros of a key; None makes one of each field, its name in capitals.
            name: A label; None takes the entry's name, without template arguments.
            **options: Other keywords of `Spec`, the same for each key.

        Raises:
            UsageError: The class of the keys is no frozen dataclass; the entry has a ``{field}``
                that it has not; or an option is none of `Spec`, or is made of each key.
        """
        check_key(key)
        _check_fields(entry, key)
        _check_options(options)
        macros = macros or _fields_in_capitals
        label = _label_of(entry) if name is None else name

        def spec(compile_key: K) -> Spec:
            if not isinstance(compile_key, key):
                raise UsageError(
                    f"a compile key of family {label!r} is a {key.__name__}, as dispatch and keys "
                    f"are to return it; got {compile_key!r:.80}"
                )
            return Spec(
                source,
                _filled(entry, compile_key),
                name=f"{label} {_values(compile_key)}",
                defines=macros(compile_key),
                **options,
            )

        return cls(label, spec, dispatch=dispatch, keys=keys)

    def dispatch(self, **inputs: Any) -> K:
        """Return the compile key of inputs."""
        return self._dispatch(**inputs)

    @property
    def knows_keys(self) -> bool:
        """Whether it can say which keys a configuration needs."""
        return self._keys is not None

    def get_warmup_keys(self, *args: Any, **kwargs: Any) -> list[K]:
        """Return the keys that a configuration needs, each once."""
        return [] if self._keys is None else list(dict.fromkeys(self._keys(*args, **kwargs)))

    def spec(self, key: K) -> Spec:
        """Return the spec of a compile key.

        Raises:
            SpecError: There is none for this key.
            UsageError: It is no key: of another class, or with a field that cannot be hashed.
        """
        try:
            spec = self._specs.get(key)
        except TypeError as exc:
            raise UsageError(
                f"a compile key is hashable, and {key!r:.80} of family {self.name!r} is not: {exc} "
                f"(of a list, make a tuple)"
            ) from exc
        if spec is None:
            spec = self._specs[key] = self._make(key)
            if not isinstance(spec, Spec):
                del self._specs[key]
                raise SpecError(f"family {self.name!r} made no ajit.Spec of {key!r:.80}")
        return spec

    async def kernel(self, runtime: Runtime, **inputs: Any) -> Kernel:
        """Return the loaded kernel for inputs, as `Runtime.kernel` does."""
        return await runtime.kernel(self.spec(self._dispatch(**inputs)))

    async def compile(self, key: K, runtime: Runtime) -> Artifact:
        """Return the compiled artifact of a key, as `Runtime.compile` does."""
        return await runtime.compile(self.spec(key))

    def __repr__(self) -> str:
        return f"<Family {self.name!r} specs={len(self._specs)}>"


def check_key(key: object) -> None:
    """Refuse a class of keys, or a key, that is no frozen dataclass.

    Raises:
        UsageError: See there.
    """
    params = getattr(key, "__dataclass_params__", None)
    if not dataclasses.is_dataclass(key) or params is None or not params.frozen:
        name = key.__name__ if isinstance(key, type) else type(key).__name__
        raise UsageError(
            f"a compile key is a frozen dataclass, and {name} is none: write "
            f"@dataclass(frozen=True) above its class"
        )


def _check_fields(entry: str, key: type) -> None:
    """Refuse an entry that stands for fields which the keys do not have."""
    known = [item.name for item in dataclasses.fields(key)]
    for name in _FIELD.findall(entry):
        if name not in known:
            has = ", ".join(known) or "none"
            raise UsageError(
                f"{{{name}}} in the entry {entry!r:.80} is no field of {key.__name__}"
                f"{_meant(name, known)}; its fields: {has}"
            )


def _check_options(options: Mapping[str, object]) -> None:
    """Refuse what `Spec` does not take, or takes from the key."""
    known = [*SpecOptions.__annotations__, "include_dirs"]
    for name in options:
        if name == "defines":
            raise UsageError("the macros of a family are made of each key: give macros= a function")
        if name not in known:
            raise UsageError(
                f"{name!r} is neither an argument of Family.of_source nor of Spec"
                f"{_meant(name, known)}"
            )


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _label_of(entry: str) -> str:
    """The name of the kernel alone: the values of a key follow it."""
    return _FIELD.sub("", entry.partition("<")[0]).strip("_ ") or entry


_FIELD = re.compile(r"\{([A-Za-z_]\w*)\}")


def _fields_in_capitals(key: Any) -> Mapping[str, object]:
    return {name.upper(): value for name, value in _fields(key).items()}


def _fields(key: Any) -> dict[str, Any]:
    return {item.name: getattr(key, item.name) for item in dataclasses.fields(key)}


def _values(key: Any) -> str:
    return " ".join(str(value) for value in _fields(key).values())


def _filled(entry: str, key: Any) -> str:
    """Put the fields of a key in the place of their names."""
    for name, value in _fields(key).items():
        entry = entry.replace(f"{{{name}}}", str(value))
    return entry
