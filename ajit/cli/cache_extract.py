"""``ajit cache extract``: what an entry holds, as files."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from ajit.cli import exits
from ajit.cli.answering import if_layers_answer
from ajit.cli.cache_finder import BadEntry, key_text
from ajit.cli.cache_stack import Caches
from ajit.cli.options import cache_dir_option
from ajit.cli.output import Output, count, json_option

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ajit._core.entry import Artifact
    from ajit._core.manifest import Manifest
    from ajit.cli.cache_finder import Cache
    from ajit.cli.disassembly import Form

__all__ = ["extract", "replacing"]


@click.command("extract", short_help="Write the compiled bytes of an entry.")
@click.argument("key", type=key_text)
@click.option("-o", "out", metavar="FILE", help="Where; - is standard output. Default: its label.")
@click.option("--force", is_flag=True, help="Without -o: replace a file of that name.")
@click.option("--sass", "form", flag_value="sass", help="Write its machine code as text.")
@click.option("--ptx", "form", flag_value="ptx", help="Write the PTX that is in it.")
@cache_dir_option
@json_option
@if_layers_answer
def extract(
    *,
    key: str,
    out: str | None,
    force: bool,
    form: Form | None,
    cache_dir: str | None,
    as_json: bool,
) -> int:
    """Write what an entry holds into a file: the cubin, or the shared object of a CPU kernel.

    The entry may be of the cache or of a layer. The files of a build's bundle, and what a compile
    of `ajit cc` wrote and printed, are written into a directory, which must not be there. The bytes
    are verified before. An existing file is replaced where -o names it, or with --force; else it is
    left, and the command exits with 2.

    With --sass or --ptx NVIDIA's cuobjdump (or nvdisasm) writes the code of a kernel for a GPU as
    text. A cubin has no PTX; a file that nvcc made for a build may. Exits with 1 if there is none,
    with 4 if the program is not installed.
    """
    from ajit._cache.entries.disk import Found  # noqa: PLC0415  # command-line start-up

    cache, found_key = Caches(cache_dir).find(key)
    if cache.store.bundles.has(found_key):
        if form:
            raise click.UsageError(
                f"a bundle has many files: extract it, and cuobjdump -{form} one"
            )
        return _extract_bundle(cache, found_key, out, Output(as_json=as_json))
    found = cache.store.read(found_key)
    if not isinstance(found, Found):
        raise BadEntry(key=found_key, reason=found.reason or "it has gone")
    artifact = found.artifact
    if artifact.kind == "outputs":
        return _extract_outputs(cache, artifact, out, Output(as_json=as_json))
    data = _text_of(artifact, form) if form else artifact.data
    path = _default_name(artifact, form) if out is None else out
    if path == "-":
        sys.stdout.buffer.write(data)
        return exits.FINE
    if out is None and not force and os.path.lexists(path):
        raise click.UsageError(f"{path} is there: name a file with -o, or replace it with --force")
    with replacing(Path(path)) as file:
        file.write(data)
    payload = {
        "key": found_key,
        "file": path,
        "kind": form or artifact.kind,
        "bytes": len(data),
        "symbols": artifact.lowered,
        "layer": cache.layer,
    }
    Output(as_json=as_json).result(
        payload, lambda: f"{path}: {payload['kind']} for {artifact.arch}, {len(data)} bytes"
    )
    return exits.FINE


def _text_of(artifact: Artifact, form: Form) -> bytes:
    """The code of an entry as text.

    Raises:
        NoCode: It has none of that form.
    """
    from ajit.cli.disassembly import NoCode, disassembled  # noqa: PLC0415  # command-line start-up

    if artifact.kind != "cubin":
        raise NoCode(f"it is no code for a GPU, but {artifact.kind} for {artifact.arch}")
    if form == "ptx":
        raise NoCode("there is no PTX in it: a cubin has machine code only (--sass)")
    return disassembled(artifact.data, form)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that has its name once it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _extract_bundle(cache: Cache, key: str, out: str | None, output: Output) -> int:
    """Write the files of a bundle into a new directory, which has its name once it is whole."""
    from ajit._cache.entries.bundles import Damaged, files_of  # noqa: PLC0415  # command-line start-up
    from ajit._cache.entries.results import entry_name, reason_of  # noqa: PLC0415  # likewise
    from ajit._core.entry import EntryInvalid  # noqa: PLC0415  # likewise

    try:
        with cache.store.bundles.open(key, entry_name(key)) as opened:
            held = opened.artifact
            path = _new_directory(out, _default_name(held))
            files = files_of(held, opened)
            _write_files(((file.path, pieces, file.executable) for file, pieces in files), path)
    except (Damaged, EntryInvalid) as exc:
        raise BadEntry(key=key, reason=reason_of(exc)) from exc
    _tell_files(cache, held, path, [file.path for file in held.files], output)
    return exits.FINE


def _extract_outputs(cache: Cache, held: Artifact, out: str | None, output: Output) -> int:
    """Write what a foreign compile wrote and printed into a new directory, a file for each."""
    from ajit._launcher.outputs import OutputsInvalid, unpack  # noqa: PLC0415  # start-up

    path = _new_directory(out, f"{_default_name(held)}.outputs")
    try:
        sections = unpack(held.data, held.key)
    except OutputsInvalid as exc:
        raise BadEntry(key=held.key, reason=str(exc)) from exc
    # Their names are the launcher's own words ("out", "deps", "stderr"), and never paths.
    names = [Path(section.name).name for section in sections]
    executable = [bool(section.mode & 0o100) for section in sections]
    pieces = [[bytes(section.data)] for section in sections]
    _write_files(zip(names, pieces, executable, strict=True), path)
    _tell_files(cache, held, path, names, output)
    return exits.FINE


def _new_directory(out: str | None, default: str) -> Path:
    if out == "-":
        raise click.UsageError("it has many files: -o DIRECTORY, or nothing for one by its label")
    path = Path(out or default)
    if os.path.lexists(path):
        raise click.UsageError(f"{path} is there: name a directory that is to be made")
    return path


def _write_files(files: Iterable[tuple[str, Iterable[bytes], bool]], path: Path) -> None:
    """Write files, of which some may be executed, into a directory that has its name at the end."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        for name, pieces, executable in files:
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as written:
                written.writelines(pieces)
            target.chmod(0o755 if executable else 0o644)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _tell_files(
    cache: Cache, held: Artifact, path: Path, files: Sequence[str], output: Output
) -> None:
    payload = {
        "key": held.key,
        "directory": str(path),
        "kind": held.kind,
        "bytes": held.size_bytes,
        "files": files,
        "layer": cache.layer,
    }
    told = f"{path}: {count(len(files), 'file', 'files')}, {held.size_bytes} bytes"
    output.result(payload, lambda: told)


def _default_name(artifact: Manifest, form: Form | None = None) -> str:
    label = "".join(c if c.isalnum() or c in "._-" else "_" for c in artifact.name)[:80]
    ending = f".{form}" if form else {"cubin": ".cubin", "elf": ".so"}.get(artifact.kind, "")
    return f"{label.lstrip('.') or artifact.key[:16]}{ending}"
