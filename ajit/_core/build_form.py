"""A build as a record has it: plain values, and its files by their digests.

A command is data altogether: it is run again as it was. Of a call there is the function's name, and
its arguments as MessagePack; no code and no pickle. Both run what the record says. So who may put
lines there is decided before a build is made of one (`ajit._core.record_seal`).

Paths of directories and of copied files stay as they are: they are looked for at the same place.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import msgspec

from ajit._core.build import Build, Call, Command
from ajit._core.record import text_digest
from ajit.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BUILD_KIND", "KEPT_KIND", "RUN_KINDS", "build_of", "written_build"]

BUILD_KIND = "build"

KEPT_KIND = "kept"
"""What a peer has made in its own process, by its key; it may have a recipe."""

RUN_KINDS = (BUILD_KIND, KEPT_KIND)
"""Kinds whose lines say what is run: a command, or a function of a module that is imported."""

_Pairs = tuple[tuple[str, str], ...]


class _Command(msgspec.Struct, frozen=True, omit_defaults=True):
    argv: tuple[str, ...]
    env: _Pairs = ()
    files: _Pairs = ()
    binaries: _Pairs = ()
    templates: _Pairs = ()
    copies: _Pairs = ()


class _Call(msgspec.Struct, frozen=True, omit_defaults=True):
    function: str
    arguments: bytes
    env: _Pairs = ()


class _Form(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    outputs: tuple[str, ...]
    command: _Command | None = None
    call: _Call | None = None
    key_parts: _Pairs = ()
    dirs: _Pairs = ()
    jobs: int = 1
    timeout_seconds: float | None = None
    limit_bytes: int | None = None
    extra_digest: str | None = None


_decoder = msgspec.json.Decoder(_Form)


def written_build(build: Build) -> tuple[bytes, dict[str, str]]:
    """Return a build as JSON, and the texts that it names by digest to text.

    Raises:
        UnicodeEncodeError: It has a path or an argument that is no UTF-8.
    """
    run, texts = build.run, _Texts()
    command = call = None
    if isinstance(run, Command):
        plain = {name: _text(content) for name, content in run.files}
        command = _Command(
            run.argv,
            run.env,
            tuple((name, texts.put(text)) for name, text in plain.items() if text is not None),
            tuple(
                (name, texts.put(base64.b64encode(content).decode()))
                for name, content in run.files
                if plain[name] is None
            ),
            tuple((name, texts.put(text)) for name, text in run.templates),
            run.copies,
        )
    else:
        call = _Call(run.function, run.arguments, run.env)
    form = _Form(
        name=build.name,
        outputs=build.outputs,
        command=command,
        call=call,
        key_parts=build.key_parts,
        dirs=build.dirs,
        jobs=build.jobs,
        timeout_seconds=build.timeout_seconds,
        limit_bytes=build.limit_bytes,
        extra_digest=build.extra_digest,
    )
    return msgspec.json.encode(form), texts.known


def build_of(data: bytes | msgspec.Raw, texts: Mapping[str, str]) -> Build:
    """Return the build that was written.

    Raises:
        SpecError: It is not one, or not one for this version; or a text of it is missing.
    """
    try:
        form = _decoder.decode(data)
        return Build(
            form.name,
            _run_of(form, texts),
            form.outputs,
            key_parts=form.key_parts,
            dirs=form.dirs,
            jobs=form.jobs,
            timeout_seconds=form.timeout_seconds,
            limit_bytes=form.limit_bytes,
            extra_digest=form.extra_digest,
        )
    except KeyError as exc:
        raise SpecError(f"the record lacks the text {str(exc)[1:17]}") from None
    except (msgspec.DecodeError, ValueError) as exc:
        raise SpecError(f"the record's line is of no build: {exc}") from None


class _Texts:
    """Texts by their digests."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def put(self, text: str) -> str:
        """Take a text in, and return its digest."""
        digest = text_digest(text)
        self.known[digest] = text
        return digest


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _run_of(form: _Form, texts: Mapping[str, str]) -> Command | Call:
    if form.command is not None:
        command = form.command
        files: dict[str, str | bytes] = {name: texts[digest] for name, digest in command.files}
        for name, digest in command.binaries:
            files[name] = base64.b64decode(texts[digest], validate=True)
        return Command(
            command.argv,
            env=command.env,
            files=files,
            templates=[(name, texts[digest]) for name, digest in command.templates],
            copies=command.copies,
        )
    if form.call is None:
        raise SpecError("the record's line is of a build that runs nothing")
    arguments = msgspec.msgpack.decode(form.call.arguments, type=dict[str, object])
    return Call(form.call.function, arguments, env=form.call.env)
