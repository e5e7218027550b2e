"""Builds: foreign compiles that run under ajit's rules.

A build is a value like a spec: frozen, hashable, compared by content, made without I/O. It says
what is run and which files come of it; what decides the result beside that is found out by
recording what it reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import msgspec

from ajit._core import written
from ajit._core.short_repr import cut
from ajit.errors import SpecError

__all__ = ["Build", "Call", "Command", "Run", "completed", "contents_of", "placeholder_texts"]

_PLACEHOLDER = re.compile(r"\{(?:jobs|folder|dir:([A-Za-z0-9_.-]+))\}")
_DIR_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FUNCTION = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")

_REFUSED = {
    "PATH": "programs are found by the server's own PATH, which the look-up of a build has as well",
    "LD_PRELOAD": "it is how what a build reads is recorded",
    "AJIT_READS": "it is how what a build reads is recorded",
    "AJIT_READS_LIBRARIES": "it is how what a build reads is recorded",
    "HOME": "it is the build's folder",
    "TMPDIR": "it is the build's folder",
}

_SHOWN = 60


@final
@dataclass(frozen=True, slots=True, init=False)
class Command:
    """A program to run in a folder of its own.

    Args:
        argv: The program, by path, by a name that is on PATH, or relative to the folder, and its
            arguments.
        env: Environment variables, beside the few that every build has.
        files: What is written into the folder before: relative name to text or bytes.
        templates: The same, with placeholders in the texts.
        copies: Relative name to the path of a file of this machine that is copied into the folder.
            Its content counts as read, and its path is not in the key.

    The values of `argv` and `env`, the texts of `templates` and the paths of `copies` may have the
    placeholders ``{jobs}``, ``{folder}`` and ``{dir:NAME}``. Attributes hold tuples, in order of
    the names.

    Raises:
        SpecError: It is not well formed; nothing was started.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, bytes], ...]
    templates: tuple[tuple[str, str], ...]
    copies: tuple[tuple[str, str], ...]

    def __init__(
        self,
        argv: Iterable[Any],
        *,
        env: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        files: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]] = (),
        templates: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        copies: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    ) -> None:
        made = {
            "argv": written.paths(argv, "argv"),
            "env": _environment(env),
            "files": _named(files, "files", _content),
            "templates": _named(templates, "templates", written.text),
            "copies": _named(copies, "copies", _path),
        }
        if not made["argv"] or not made["argv"][0]:
            raise SpecError("argv must begin with a program")
        for attribute, value in made.items():
            object.__setattr__(self, attribute, value)
        names = [name for name, _ in (*self.files, *self.templates, *self.copies)]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SpecError(f"file {cut(repr(twice), _SHOWN)} is given twice")

    @property
    def program(self) -> str:
        """How it is called in messages."""
        return self.argv[0].rpartition("/")[2]

    def __repr__(self) -> str:
        return f"<Command {cut(' '.join(self.argv), _SHOWN)} files={len(self.files)}>"


@final
@dataclass(frozen=True, slots=True, init=False)
class Call:
    """A Python function to call in a process of its own, in a folder of its own.

    Args:
        function: ``"package.module:function"``: importable where this process imports from.
        arguments: Its keyword arguments: anything that msgspec can carry as MessagePack, and that
            comes back as numbers, texts, bytes, lists, dicts, booleans and None.
        env: Environment variables; their values may have placeholders, as those of `Command`.

    The function writes its outputs into the working directory. What it returns is ignored, what it
    raises is a `CompileError`.

    Raises:
        SpecError: It is not well formed; nothing was started.
    """

    function: str
    arguments: bytes
    """The keyword arguments, encoded."""
    env: tuple[tuple[str, str], ...]

    def __init__(
        self,
        function: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        env: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> None:
        if not _FUNCTION.fullmatch(written.text(function, "function")):
            raise SpecError(
                f'function must be "module:function", got {cut(repr(function), _SHOWN)}: a '
                "function of another process is found by its name"
            )
        if function.startswith("__main__:"):
            raise SpecError(f"{function} is of the program itself: no other process can import it")
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "arguments", _encoded(arguments or {}))
        object.__setattr__(self, "env", _environment(env))

    @property
    def program(self) -> str:
        """How it is called in messages."""
        return self.function

    def __repr__(self) -> str:
        return f"<Call {self.function} {len(self.arguments)} bytes of arguments>"


Run: TypeAlias = Command | Call


@final
@dataclass(frozen=True, slots=True, init=False)
class Build:
    """A request for the files that a command or a function makes.

    Args:
        name: A label for logs and tables; not part of the key.
        run: What is run.
        outputs: Patterns of the files that are kept, relative to the folder: ``"*.so"``,
            ``"out/**/*.json"``. Each has to match a file.
        key_parts: Pairs of label and text that belong to the base key: versions, a peer's own key.
        dirs: Name to directory, for ``{dir:NAME}``; their paths are not in the key.
        jobs: How many jobs it can make use of at once; 0: as many as there are slots.
        timeout_seconds: Its limit; None takes the setting ``compile_timeout_seconds``.
        limit_bytes: The most that its outputs may have; None takes ``bundle_limit_bytes``.
        extra_digest: A text that you change with whatever the result depends on. Builds whose reads
            cannot be seen are kept in the cache only with it.

    Attributes have the names of the arguments and hold tuples.

    Raises:
        SpecError: It is not well formed; nothing was started.
    """

    name: str
    run: Run
    outputs: tuple[str, ...]
    key_parts: tuple[tuple[str, str], ...]
    dirs: tuple[tuple[str, str], ...]
    jobs: int
    timeout_seconds: float | None
    limit_bytes: int | None
    extra_digest: str | None
    _hash: int = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        name: str,
        run: Run,
        outputs: Iterable[str],
        *,
        key_parts: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        dirs: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        jobs: int = 1,
        timeout_seconds: float | None = None,
        limit_bytes: int | None = None,
        extra_digest: str | None = None,
    ) -> None:
        if not isinstance(run, Command | Call):
            raise SpecError(f"run must be a Command or a Call, got {type(run).__name__}")
        made: dict[str, object] = {
            "name": written.label(name),
            "run": run,
            "outputs": _patterns(outputs),
            "key_parts": _key_parts(key_parts),
            "dirs": _dirs(dirs),
            "jobs": _number(jobs, "jobs", least=0),
            "timeout_seconds": timeout_seconds,
            "limit_bytes": limit_bytes,
            "extra_digest": None
            if extra_digest is None
            else written.text(extra_digest, "extra_digest"),
        }
        for limit in ("timeout_seconds", "limit_bytes"):
            if made[limit] is not None:
                _number(made[limit], limit, least=0.001)
        for attribute, value in made.items():
            object.__setattr__(self, attribute, value)
        _check_placeholders(self)
        object.__setattr__(self, "_hash", hash((self.name, self.run, self.outputs, self.dirs)))

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"<Build {cut(repr(self.name), _SHOWN)} {self.run!r} jobs={self.jobs}>"


def completed(text: str, jobs: int, folder: str, dirs: Mapping[str, str]) -> str:
    """Return a text with its placeholders replaced.

    Args:
        text: Where they may be.
        jobs: For ``{jobs}``.
        folder: For ``{folder}``.
        dirs: For ``{dir:NAME}``.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] is not None:
            return dirs[match[1]]
        return str(jobs) if match[0] == "{jobs}" else folder

    return _PLACEHOLDER.sub(value, text)


def placeholder_texts(run: Run) -> tuple[str, ...]:
    """Return the texts of a run in which placeholders are replaced."""
    values = tuple(value for _, value in run.env)
    if isinstance(run, Call):
        return values
    return (*run.argv, *values, *(text for _, text in (*run.templates, *run.copies)))


def contents_of(run: Run) -> tuple[str, ...]:
    """Return the texts of the files of a run."""
    if isinstance(run, Call):
        return ()
    return tuple(content.decode(errors="replace") for _, content in run.files)


def _check_placeholders(build: Build) -> None:
    known = {name for name, _ in build.dirs}
    for text in placeholder_texts(build.run):
        for match in _PLACEHOLDER.finditer(text):
            if match[1] is not None and match[1] not in known:
                raise SpecError(
                    f"{match[0]} in build {cut(repr(build.name), _SHOWN)} names no directory of "
                    f"dirs ({', '.join(sorted(known)) or 'it is empty'})"
                )


def _pairs(values: Any, what: str) -> list[tuple[Any, Any]]:
    items = values.items() if isinstance(values, Mapping) else values
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        raise SpecError(f"{what} must be a mapping or pairs, got {type(values).__name__}")
    pairs = [tuple(item) if isinstance(item, tuple | list) else () for item in items]
    if any(len(pair) != 2 for pair in pairs):
        raise SpecError(f"{what} must be a mapping or pairs of name and value")
    return [(pair[0], pair[1]) for pair in pairs]


def _named(values: Any, what: str, convert: Any) -> tuple[tuple[str, Any], ...]:
    """Return files by relative name, sorted."""
    made: dict[str, Any] = {}
    for name, value in _pairs(values, what):
        relative = relative_name(name, what)
        if relative in made:
            raise SpecError(f"file {cut(repr(name), _SHOWN)} is given twice")
        made[relative] = convert(value, f"{what}[{cut(repr(name), _SHOWN)}]")
    return tuple(sorted(made.items()))


def relative_name(name: object, what: str) -> str:
    """Return the name of a file in a folder, if it is one that does not lead out of it."""
    text = written.text(name, f"a name of {what}")
    parts = text.split("/")
    if any(part in ("", ".", "..") for part in parts) or not text.isprintable():
        raise SpecError(
            f"{cut(repr(name), _SHOWN)} in {what} is not the name of a file in the folder: "
            "relative, without '..'"
        )
    return text


def _content(value: object, what: str) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if not isinstance(value, str):
        hint = " (a path belongs to copies)" if hasattr(value, "__fspath__") else ""
        raise SpecError(f"{what} must be str or bytes, got {type(value).__name__}{hint}")
    try:
        return value.encode()
    except UnicodeEncodeError as exc:
        raise SpecError(f"{what} cannot be written as UTF-8: {exc}") from None


def _path(value: Any, what: str) -> str:
    path = value.__fspath__() if hasattr(value, "__fspath__") else value
    return written.text(path, what)


def _environment(values: Any) -> tuple[tuple[str, str], ...]:
    made: dict[str, str] = {}
    for name, value in _pairs(values, "env"):
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise SpecError(f"{cut(repr(name), _SHOWN)} is not the name of a variable")
        if name in _REFUSED:
            raise SpecError(f"env cannot set {name}: {_REFUSED[name]}")
        made[name] = written.text(value, f"env[{name}]")
    return tuple(sorted(made.items()))


def _patterns(values: Iterable[str]) -> tuple[str, ...]:
    patterns = written.texts(values, "outputs")
    if not patterns:
        raise SpecError("a build needs outputs: patterns of the files that are kept")
    return tuple(dict.fromkeys(relative_name(pattern, "outputs") for pattern in patterns))


def _key_parts(values: Any) -> tuple[tuple[str, str], ...]:
    return tuple(
        (written.label(label), written.text(value, f"key_parts[{label}]"))
        for label, value in _pairs(values, "key_parts")
    )


def _dirs(values: Any) -> tuple[tuple[str, str], ...]:
    made: dict[str, str] = {}
    for name, value in _pairs(values, "dirs"):
        if not isinstance(name, str) or not _DIR_NAME.fullmatch(name):
            raise SpecError(f"{cut(repr(name), _SHOWN)} cannot be the name of a directory in dirs")
        made[name] = _path(value, f"dirs[{name}]")
    return tuple(sorted(made.items()))


def _number(value: Any, what: str, *, least: float) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise SpecError(f"{what} is {value!r}, must be a number of at least {least:g}")
    return value


def _encoded(arguments: Mapping[str, Any]) -> bytes:
    if not all(isinstance(name, str) for name, _ in _pairs(arguments, "arguments")):
        raise SpecError("arguments must be a mapping of names to values")
    try:
        # In one order at every level: equal arguments have one encoding, and one key.
        return msgspec.msgpack.encode(dict(arguments), order="deterministic")
    except (TypeError, OverflowError, UnicodeEncodeError) as exc:
        raise SpecError(f"an argument cannot be sent to another process: {exc}") from None
