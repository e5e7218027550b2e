"""A spec as a record has it: plain values, and its long texts by their digests.

Paths of include directories stay as they are: they are looked for at the same place again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ajit._core.record import text_digest
from ajit._core.spec import CompilerKind, EntryPoint, Spec
from ajit.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SPEC_KIND", "parts_of", "spec_of", "written_spec"]

SPEC_KIND = "spec"

Pairs = tuple[tuple[str, str | None], ...]


class _Form(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    source: str
    entries: tuple[tuple[str, tuple[str, ...] | None], ...]
    name: str
    compiler: CompilerKind = "auto"
    arch: str | None = None
    options: tuple[str, ...] = ()
    defines: Pairs = ()
    include_dirs: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    extra_digest: str | None = None


_decoder = msgspec.json.Decoder(_Form)


def written_spec(spec: Spec) -> tuple[bytes, dict[str, str]]:
    """Return a spec as JSON, and the texts that it names by digest to text.

    Raises:
        UnicodeEncodeError: It has a path that is no UTF-8.
    """
    texts = {text_digest(text): text for text in (spec.source, *(text for _, text in spec.headers))}
    form = _Form(
        source=text_digest(spec.source),
        entries=tuple((entry.name, _given_params(entry)) for entry in spec.entries),
        name=spec.name,
        compiler=spec.compiler,
        arch=spec.arch,
        options=spec.options,
        defines=spec.defines,
        include_dirs=spec.include_dirs,
        headers=tuple((name, text_digest(text)) for name, text in spec.headers),
        extra_digest=spec.extra_digest,
    )
    return msgspec.json.encode(form), texts


def spec_of(build: bytes | msgspec.Raw, texts: Mapping[str, str]) -> Spec:
    """Return the spec that was written.

    Raises:
        SpecError: It is not one, or not one for this version; or a text of it is missing.
    """
    try:
        form = _decoder.decode(build)
        return Spec(
            texts[form.source],
            [EntryPoint(name, params) for name, params in form.entries],
            name=form.name,
            compiler=form.compiler,
            arch=form.arch,
            options=form.options,
            defines=form.defines,
            include_dirs=form.include_dirs,
            headers=[(name, texts[digest]) for name, digest in form.headers],
            extra_digest=form.extra_digest,
        )
    except KeyError as exc:
        raise SpecError(f"the record lacks the text {str(exc)[1:17]}") from None
    except msgspec.DecodeError as exc:
        raise SpecError(f"the record's line is of no spec: {exc}") from None


def parts_of(build: bytes | msgspec.Raw) -> dict[str, tuple[str, ...]]:
    """Return what tells specs of one label apart, for people; nothing if it is not a spec.

    Returns:
        ``entries``, ``compiler``, ``options``, ``defines`` as ``NAME=VALUE``, ``include_dirs``,
        ``headers`` with their digests, and ``source``, its digest.
    """
    try:
        form = _decoder.decode(build)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return {
        "entries": tuple(name for name, _ in form.entries),
        "compiler": (form.compiler,),
        "options": form.options,
        "defines": tuple(n if v is None else f"{n}={v}" for n, v in form.defines),
        "include_dirs": form.include_dirs,
        "headers": tuple(f"{name} {digest}" for name, digest in form.headers),
        "source": (form.source,),
    }


def _given_params(entry: EntryPoint) -> tuple[str, ...] | None:
    """The parameters if the user gave them; what was read from the source is read again."""
    return None if entry.params == entry._read else entry.params  # noqa: SLF001  # its other half
