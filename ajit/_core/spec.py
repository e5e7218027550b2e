"""The spec: what a user asks for.

A spec is a value: frozen, hashable, compared by content, made without I/O. It knows nothing of
compilers that are installed or of files that exist; `ajit._core.key` joins it with those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

from ajit.errors import SpecError, UnknownArch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "MAX_SOURCE_BYTES",
    "CompilerKind",
    "EntryPoint",
    "Spec",
    "is_cpu_arch",
    "validate_arch",
]

CompilerKind = Literal["auto", "nvrtc", "nvcc", "host"]
COMPILER_KINDS: tuple[CompilerKind, ...] = get_args(CompilerKind)

MAX_SOURCE_BYTES = 64 * 1024 * 1024
"""A source above this is refused. Pretty arbitrary: generated kernels are 10 MB at most."""

_CPU_ARCHES = frozenset({"x86_64", "aarch64"})
_GPU_ARCH = re.compile(r"sm_[1-9][0-9]{1,2}[af]?\Z")
_MACRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """One kernel of a source.

    Attributes:
        name: A declared name (``saxpy``), or a name expression of a template (``scale<float, 4>``).
        params: C types of the parameters in order, such as ``("float", "const float*", "int")``;
            None if undeclared: such a kernel can be compiled and loaded, but not launched.
    """

    name: str
    params: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Spec:
    """A request for compiled kernels, made with `Spec.of`.

    Attributes:
        source: CUDA C++ source text.
        entries: The entry points, at least one, in the order given.
        name: A label for logs, tables and file names in compiler output. Not part of the key.
        compiler: ``auto`` takes the host compiler for a CPU arch and NVRTC for a GPU's.
        arch: ``sm_80``, ``sm_90a``, ... or ``x86_64``, ``aarch64``; None takes the device's.
        options: Compiler flags in order, passed on as they are.
        defines: Macros, sorted by name; a value of None is a bare ``-DNAME``.
        include_dirs: Directories of user headers, in search order. Only contents reach the key.
        headers: Virtual headers: include name and text.
        extra_digest: Anything else the result depends on; required where an include cannot be
            followed statically.
    """

    source: str
    entries: tuple[EntryPoint, ...]
    name: str = "kernel"
    compiler: CompilerKind = "auto"
    arch: str | None = None
    options: tuple[str, ...] = ()
    defines: tuple[tuple[str, str | None], ...] = ()
    include_dirs: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    extra_digest: str | None = None
    _hash: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        _validate(self)
        object.__setattr__(self, "_hash", hash(self._fields()))

    @classmethod
    def of(
        cls,
        source: str | bytes,
        entry: str | EntryPoint | Iterable[str | EntryPoint],
        params: str | Sequence[str] | None = None,
        *,
        name: str = "kernel",
        compiler: CompilerKind = "auto",
        arch: str | None = None,
        options: Iterable[str] = (),
        defines: Mapping[str, object] | Iterable[str | tuple[str, str | None]] = (),
        include_dirs: Iterable[object] = (),
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        extra_digest: str | None = None,
    ) -> Spec:
        """Make a spec from what one writes by hand.

        Args:
            source: CUDA C++ text, or its UTF-8 bytes.
            entry: One entry point, or several.
            params: Parameter types of a single entry point: a sequence of C types, or a parameter
                list as in the source (``"float a, const float* x, int n"``; types with commas of
                their own need the sequence).
            name: See `Spec`, as for all that follow.
            compiler: ``auto``, ``nvrtc``, ``nvcc`` or ``host``.
            arch: None takes the device's.
            options: Flags in order.
            defines: Macro names, pairs, or a mapping; numbers and booleans become text.
            include_dirs: Paths, in search order.
            headers: Include name to text.
            extra_digest: Anything else the result depends on.

        Raises:
            SpecError: The spec is not well formed; nothing was started.
        """
        return cls(
            _text(source),
            _entries(entry, params),
            name=name,
            compiler=compiler,
            arch=arch,
            options=tuple(options),
            defines=_defines(defines),
            include_dirs=tuple(str(path) for path in include_dirs),
            headers=tuple(sorted(dict(headers).items())),
            extra_digest=extra_digest,
        )

    @property
    def entry_names(self) -> tuple[str, ...]:
        """Names of the entry points, in order."""
        return tuple(entry.name for entry in self.entries)

    def entry(self, name: str | None = None) -> EntryPoint:
        """Return the entry point of that name, or the only one.

        Raises:
            SpecError: There is no such entry point, or there are several and no name was given.
        """
        if name is None:
            if len(self.entries) > 1:
                raise SpecError(
                    f"spec {self.name!r} has {len(self.entries)} entry points; name one of "
                    f"{', '.join(self.entry_names)} or use module()"
                )
            return self.entries[0]
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise SpecError(f"spec {self.name!r} declares no entry point {name!r}")

    def with_(self, **changes: object) -> Spec:
        """Return a copy with some attributes changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def _fields(self) -> tuple[object, ...]:
        return (
            self.source, self.entries, self.name, self.compiler, self.arch, self.options,
            self.defines, self.include_dirs, self.headers, self.extra_digest,
        )  # fmt: skip

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Spec):
            return NotImplemented
        return self._hash == other._hash and self._fields() == other._fields()

    def __repr__(self) -> str:
        names = ", ".join(self.entry_names)
        arch = self.arch or "device's arch"
        return f"<Spec {self.name!r} entries=[{names}] compiler={self.compiler} arch={arch}>"


def is_cpu_arch(arch: str) -> bool:
    """Whether an arch is a host CPU's, so that the host compiler builds it for the CPU driver."""
    return arch in _CPU_ARCHES


def validate_arch(arch: str) -> str:
    """Return the arch if it has the form of one.

    Raises:
        UnknownArch: It has not; nothing was started.
    """
    if is_cpu_arch(arch) or _GPU_ARCH.match(arch):
        return arch
    known = ["sm_80", "sm_90a", "sm_100", "...", *sorted(_CPU_ARCHES)]
    raise UnknownArch(arch=arch, compiler="ajit", known=known)


def _validate(spec: Spec) -> None:
    if not spec.source.strip():
        raise SpecError(f"spec {spec.name!r} has an empty source")
    if len(spec.source) > MAX_SOURCE_BYTES:
        raise SpecError(f"source of spec {spec.name!r} is above {MAX_SOURCE_BYTES} bytes")
    try:
        spec.source.encode()
    except UnicodeEncodeError as exc:
        raise SpecError(f"source of spec {spec.name!r} cannot be written as UTF-8: {exc}") from None
    if "\0" in spec.source:
        raise SpecError(f"source of spec {spec.name!r} contains a NUL character")
    if not spec.entries:
        raise SpecError(f"spec {spec.name!r} names no entry point")
    if len(set(spec.entry_names)) != len(spec.entries):
        raise SpecError(f"spec {spec.name!r} names an entry point twice")
    if spec.compiler not in COMPILER_KINDS:
        raise SpecError(f"compiler {spec.compiler!r} is none of {', '.join(COMPILER_KINDS)}")
    if spec.arch is not None:
        validate_arch(spec.arch)


def _text(source: str | bytes) -> str:
    if isinstance(source, str):
        return source
    try:
        return source.decode()
    except UnicodeDecodeError as exc:
        line = source[: exc.start].count(b"\n") + 1
        raise SpecError(
            f"source is not UTF-8: byte {exc.start}, line {line}: {exc.reason}"
        ) from None


def _entries(
    entry: str | EntryPoint | Iterable[str | EntryPoint], params: str | Sequence[str] | None
) -> tuple[EntryPoint, ...]:
    if isinstance(entry, EntryPoint):
        entry = [entry]
    if isinstance(entry, str):
        return (EntryPoint(_entry_name(entry), _params(params)),)
    if params is not None:
        raise SpecError("params go with a single entry point; give EntryPoint(name, params) each")
    made = (item if isinstance(item, EntryPoint) else EntryPoint(item) for item in entry)
    return tuple(EntryPoint(_entry_name(item.name), item.params) for item in made)


def _entry_name(name: str) -> str:
    """Fold white space, so that one name expression has one spelling and one key."""
    folded = _SPACES.sub(" ", name).strip()
    if not folded or any(char in folded for char in ';{}"\\#'):
        raise SpecError(f"{name!r} is not the name of a kernel")
    return folded


def _params(params: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if params is None:
        return None
    if isinstance(params, str):
        params = _split_parameter_list(params)
    return tuple(_SPACES.sub(" ", param).strip() for param in params)


def _split_parameter_list(text: str) -> list[str]:
    """``"float a, const float* __restrict__ x"`` to ``["float", "const float*"]``."""
    types = []
    parts = (part.replace("__restrict__", " ").strip() for part in text.split(","))
    for part in filter(None, parts):
        match = re.match(r"(.*[\s*&>])([A-Za-z_]\w*)\Z", part)
        head = match.group(1).strip() if match else part
        # "unsigned int" has no parameter name: its last word belongs to the type.
        last_is_type = match is not None and match.group(2) in _TYPE_WORDS
        types.append(part if last_is_type else head)
    return types


_TYPE_WORDS = frozenset(
    {"int", "long", "short", "char", "unsigned", "signed", "float", "double", "bool"}
)


def _defines(
    defines: Mapping[str, object] | Iterable[str | tuple[str, str | None]],
) -> tuple[tuple[str, str | None], ...]:
    pairs: list[tuple[str, str | None]]
    if isinstance(defines, Mapping):
        pairs = [(str(n), None if v is None else _macro_value(v)) for n, v in defines.items()]
    else:
        pairs = [(item, None) if isinstance(item, str) else item for item in defines]
    for name, _ in pairs:
        if not _MACRO_NAME.match(name):
            raise SpecError(f"{name!r} is not the name of a macro")
    if len({name for name, _ in pairs}) != len(pairs):
        raise SpecError("a macro is defined twice")
    return tuple(sorted(pairs))


def _macro_value(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
