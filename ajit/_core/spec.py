"""The spec: what a user asks for.

A spec is a value: frozen, hashable, compared by content, made without I/O. It knows nothing of
compilers that are installed or of files that exist; `ajit._core.key` joins it with those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, final, get_args

from ajit._core import written
from ajit._core.short_repr import cut
from ajit._core.signature import Origin, check_params, read_params
from ajit._core.source_file import MAX_SOURCE_BYTES, read_source
from ajit.errors import SpecError, UnknownArch

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from typing import Unpack

__all__ = [
    "MAX_SOURCE_BYTES",
    "CompilerKind",
    "EntryPoint",
    "Spec",
    "is_cpu_arch",
    "validate_arch",
    "with_variants",
]

CompilerKind = Literal["auto", "nvrtc", "nvcc", "host"]
COMPILER_KINDS: tuple[CompilerKind, ...] = get_args(CompilerKind)

_REPR_ENTRIES = 80
_MESSAGE_ENTRIES = 1000
_REPR_LABEL = 50
"""Characters in a spec's representation, which is one line of less than 200."""

_NO_SUBCLASS = (
    "{name} cannot be subclassed: it is a value that is compared, copied and sent to other "
    "processes by its content. Write a function that makes one"
)

_CPU_ARCHES = frozenset({"x86_64", "aarch64"})
_GPU_ARCH = re.compile(r"sm_[1-9][0-9]{1,2}[af]?")


@final
@dataclass(frozen=True, slots=True, init=False, repr=False)
class EntryPoint:
    """One kernel of a source.

    Args:
        name: A declared name (``saxpy``), or a name expression of a template (``scale<float, 4>``).
        params: C types of the parameters: a sequence such as ``["float", "const float*", "int"]``,
            or a parameter list as in the source (``"float a, const float* x, int n"``).

    Attributes:
        name: With its white space folded.
        params: The types in order. A spec reads them from its source where they are not given;
            None if the source does not tell: such a kernel can be compiled and loaded, but not
            launched.

    Raises:
        SpecError: The name or a type is not well formed.
    """

    name: str
    params: tuple[str, ...] | None
    _read: tuple[str, ...] | None = field(compare=False)
    """The types as they were read from a source: of a changed copy, they are read again."""

    def __init__(
        self,
        name: str,
        params: str | Sequence[str] | None = None,
        *,
        _read: tuple[str, ...] | None = None,
    ) -> None:
        object.__setattr__(self, "name", written.kernel_name(name))
        object.__setattr__(self, "params", written.parameter_types(params))
        object.__setattr__(self, "_read", _read)

    def __init_subclass__(cls, **_: object) -> None:
        raise TypeError(_NO_SUBCLASS.format(name="EntryPoint"))

    def __repr__(self) -> str:
        params = "None" if self.params is None else cut(repr(self.params), _REPR_ENTRIES)
        return f"EntryPoint(name={cut(repr(self.name), _REPR_ENTRIES)}, params={params})"

    def _with_params(self, origin: Origin) -> EntryPoint:
        """Return this entry point with the parameters read from a spec's source.

        Parameters that were read from another source before are ignored.
        """
        if self.params is None or self.params == self._read:
            params = read = read_params(self.name, origin)
        else:
            params, read = check_params(self.name, self.params, origin), None
        return self if params == self.params else EntryPoint(self.name, params, _read=read)


class SpecOptions(TypedDict, total=False):
    """What `Spec` takes as keywords, all but ``include_dirs``, for type checkers."""

    params: str | Sequence[str] | None
    name: str | None
    compiler: CompilerKind
    arch: str | None
    options: Iterable[str]
    defines: Mapping[str, object] | Iterable[str | tuple[str, object]]
    headers: Mapping[str, str] | Iterable[tuple[str, str]]
    extra_digest: str | None


@final
@dataclass(frozen=True, slots=True, eq=False, init=False)
class Spec:
    """A request for compiled kernels.

    Args:
        source: CUDA C++ text, or its UTF-8 bytes.
        entries: A kernel's name, or several names; `EntryPoint` declares the parameters of each.
        params: Parameter types of a single kernel: a sequence of C types, or a parameter list as in
            the source (``"float a, const float* x, int n"``). They are read from the source; give
            them where that does not work, as with macros in the list.
        name: A label for logs, tables and file names in compiler output; None takes the name of
            the first kernel. Not part of the base key.
        compiler: ``auto``, ``nvrtc``, ``nvcc`` or ``host``. ``auto`` takes the host compiler for a
            CPU arch and NVRTC for a GPU's.
        arch: ``sm_80``, ``sm_90a``, ... or ``x86_64``, ``aarch64``; None takes the device's.
        options: Compiler flags in order, passed on as they are.
        defines: Macro names, pairs, or a mapping; numbers and booleans become text, None makes a
            bare ``-DNAME``.
        include_dirs: Directories of user headers, in search order. Their paths reach the key
            only if the result holds them (``__FILE__``, ``assert``).
        headers: Virtual headers: include name to text.
        extra_digest: A text that you change with anything else the result depends on. Required for
            an option that loads code into the compiler (``-fplugin``). Kernels of a compiler
            whose reads cannot be seen are kept in the cache only with it.

    Attributes have the names of the arguments and hold tuples: `entries` of `EntryPoint`, `defines`
    and `headers` of pairs that are sorted by name.

    Raises:
        SpecError: The spec is not well formed; nothing was started.
    """

    source: str
    entries: tuple[EntryPoint, ...]
    name: str
    compiler: CompilerKind
    arch: str | None
    options: tuple[str, ...]
    defines: tuple[tuple[str, str | None], ...]
    include_dirs: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    extra_digest: str | None
    _hash: int = field(init=False, repr=False)

    def __init__(
        self,
        source: str | bytes,
        entries: str | EntryPoint | Iterable[str | EntryPoint],
        *,
        params: str | Sequence[str] | None = None,
        name: str | None = None,
        compiler: CompilerKind = "auto",
        arch: str | None = None,
        options: Iterable[str] = (),
        defines: Mapping[str, object] | Iterable[str | tuple[str, object]] = (),
        include_dirs: Iterable[object] = (),
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        extra_digest: str | None = None,
    ) -> None:
        made: dict[str, object] = {
            "source": written.source_text(source),
            "entries": _entries(entries, params),
            "name": "" if name is None else written.label(name),
            "compiler": compiler,
            "arch": arch,
            "options": written.texts(options, "options"),
            "defines": written.macros(defines),
            "include_dirs": written.paths(include_dirs, "include_dirs"),
            "headers": written.virtual_headers(headers),
            "extra_digest": None
            if extra_digest is None
            else written.text(extra_digest, "extra_digest"),
        }
        for attribute, value in made.items():
            object.__setattr__(self, attribute, value)
        if name is None and self.entries:
            object.__setattr__(self, "name", self.entries[0].name)
        _validate(self)
        origin = Origin(self.source, self.headers, self.defines, self.options)
        read = tuple(entry._with_params(origin) for entry in self.entries)  # noqa: SLF001  # its other half
        object.__setattr__(self, "entries", read)
        object.__setattr__(self, "_hash", hash(self._fields()))

    def __init_subclass__(cls, **_: object) -> None:
        raise TypeError(_NO_SUBCLASS.format(name="Spec"))

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        entries: str | EntryPoint | Iterable[str | EntryPoint],
        *,
        include_dirs: Iterable[object] = (),
        **options: Unpack[SpecOptions],
    ) -> Spec:
        """Make a spec from a source file. Reads the file at once, and blocks meanwhile.

        Args:
            path: A file in UTF-8, such as ``"kernels/saxpy.cu"``.
            entries: A kernel's name, or several names.
            include_dirs: Directories of user headers; the file's own is searched before them.
            **options: Other keywords of `Spec`.

        Raises:
            SpecError: The file cannot be read, or the spec is not well formed.
        """
        source, folder = read_source(path)
        searched = (folder, *written.paths(include_dirs, "include_dirs"))
        return cls(source, entries, include_dirs=searched, **options)

    @property
    def _label(self) -> str:
        return cut(repr(self.name), _REPR_LABEL)

    @property
    def entry_names(self) -> tuple[str, ...]:
        """Names of the entry points, in order."""
        return tuple(entry.name for entry in self.entries)

    def entry_point(self, name: str | None = None) -> EntryPoint:
        """Return the entry point of that name, or the only one.

        Raises:
            SpecError: There is no such entry point, or there are several and no name was given.
        """
        if name is None:
            if len(self.entries) > 1:
                raise SpecError(
                    f"spec {self._label} has {len(self.entries)} entry points; name one of "
                    f"{cut(', '.join(self.entry_names), _MESSAGE_ENTRIES)}, or use module()"
                )
            return self.entries[0]
        folded = written.kernel_name(name)
        for entry in self.entries:
            if entry.name == folded:
                return entry
        raise SpecError(
            f"spec {self._label} declares no entry point {cut(repr(name), written.SHOWN)}; it has "
            f"{cut(', '.join(self.entry_names), _MESSAGE_ENTRIES)}"
        )

    def with_(self, **changes: Any) -> Spec:
        """Return a copy with some attributes changed, to anything that `Spec` takes.

        Raises:
            SpecError: The copy would not be well formed.
        """
        return Spec(**dict(zip(_ATTRIBUTES, self._fields(), strict=True)) | changes)

    def __reduce__(self) -> tuple[Callable[..., Spec], tuple[object, ...]]:
        # Made again in the other process, because strings hash differently in each process.
        return _restored, self._fields()

    def _fields(self) -> tuple[Any, ...]:
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
        names = cut(", ".join(self.entry_names), _REPR_ENTRIES)
        arch = self.arch or "device's arch"
        return f"<Spec {self._label} entries=[{names}] compiler={self.compiler} arch={arch}>"


_ATTRIBUTES = tuple(name for name in Spec.__dataclass_fields__ if name != "_hash")


def _restored(*values: Any) -> Spec:
    return Spec(**dict(zip(_ATTRIBUTES, values, strict=True)))


def is_cpu_arch(arch: str) -> bool:
    """Whether an arch is a host CPU's, so that the host compiler builds it for the CPU driver."""
    return arch in _CPU_ARCHES


def validate_arch(arch: Any) -> str:
    """Return the arch if it has the form of one.

    Raises:
        UnknownArch: It has not; nothing was started.
    """
    if isinstance(arch, str) and (is_cpu_arch(arch) or _GPU_ARCH.fullmatch(arch)):
        return arch
    # Which numbers there are is known to the compiler alone.
    forms = ["sm_<number>", "sm_<number>a", "sm_<number>f (such as sm_80, sm_90a, sm_100f)"]
    forms += sorted(_CPU_ARCHES)
    raise UnknownArch(arch=arch, compiler="ajit", known=forms)


def with_variants(arches: Iterable[str]) -> list[str]:
    """Return archs of GPUs with those of their own features behind each, in order.

    Compilers list the plain ones only. ``a`` came with 9.0, ``f`` with 10.0, by the CUDA C++
    Programming Guide.
    """
    known: list[str] = []
    for arch in sorted(set(arches), key=lambda arch: (len(arch), arch)):
        digits = arch.removeprefix("sm_")
        number = int(digits) if digits.isdecimal() else 0
        known.append(arch)
        known += [f"{arch}a"] if number >= 90 else []
        known += [f"{arch}f"] if number >= 100 else []
    return known


def _validate(spec: Spec) -> None:
    label = spec._label  # noqa: SLF001  # its other half
    if not spec.source or spec.source.isspace():
        raise SpecError(f"spec {label} has an empty source")
    # A character has four bytes at most: most sources need not be encoded to be measured.
    if 4 * len(spec.source) > MAX_SOURCE_BYTES and len(spec.source.encode()) > MAX_SOURCE_BYTES:
        raise SpecError(f"source of spec {label} is above {MAX_SOURCE_BYTES} bytes")
    if not spec.entries:
        raise SpecError(f"spec {label} names no entry point")
    if len(set(spec.entry_names)) != len(spec.entries):
        raise SpecError(f"spec {label} names an entry point twice")
    if spec.compiler not in COMPILER_KINDS:
        raise SpecError(
            f"compiler {cut(repr(spec.compiler), _REPR_LABEL)} is none of "
            f"{', '.join(COMPILER_KINDS)}"
        )
    if spec.arch is not None:
        validate_arch(spec.arch)


def _entries(entries: Any, params: str | Sequence[str] | None) -> tuple[EntryPoint, ...]:
    if isinstance(entries, str):
        return (EntryPoint(entries, params),)
    if params is not None:
        raise SpecError(
            "params belong to a single kernel; for several, give EntryPoint(name, params) for each"
        )
    if isinstance(entries, EntryPoint):
        return (entries,)
    if isinstance(entries, bytes) or not isinstance(entries, Iterable):
        raise SpecError(
            f"entries must be the name of a kernel or several, got {type(entries).__name__}"
        )
    return tuple(item if isinstance(item, EntryPoint) else EntryPoint(item) for item in entries)
