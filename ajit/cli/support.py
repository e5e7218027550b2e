"""``ajit doctor --bundle``: one file for a report, without secrets.

It has what a maintainer asks for first, each as JSON: what `ajit doctor` found, versions, settings
with their origins, a few variables, the cache in numbers, and the failures of the last hours with
the compiler's log. No source, no compiled bytes and no names of kernels but those of failures.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import pwd
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ajit import __version__
from ajit.cache.opened import OpenedCache
from ajit.cache.scanning import described
from ajit.cli.answering import while_cache_answers
from ajit.cli.cache_views import summarise
from ajit.cli.config import setting_rows
from ajit.cli.output import SCHEMA
from ajit.cli.redaction import REMOVED, Redactor, is_secret_name
from ajit.errors import AjitError, CacheError
from ajit.settings import is_secret, setting_names, variable_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ajit.cli.findings import Check
    from ajit.settings import Settings

__all__ = ["write_bundle"]

VARIABLES = (
    "CONDA_PREFIX", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL",
    "LD_LIBRARY_PATH", "LD_PRELOAD", "NVIDIA_VISIBLE_DEVICES", "PATH", "SLURM_JOB_NUM_NODES",
    "SLURM_NTASKS", "TMPDIR", "VIRTUAL_ENV", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR",
)  # fmt: skip
"""Shown beside those that ajit reads. Of an unknown ``AJIT_*`` the name is told, for it may be a
misspelt one with a key in it; of no other variable even that."""

PACKAGES = (
    "anyio", "apache-tvm-ffi", "click", "cryptography", "cuda-bindings", "cuda-core",
    "cuda-pathfinder", "cuda-python", "cupy-cuda13x", "flashinfer-python", "msgspec", "numpy",
    "opentelemetry-api", "prometheus-client", "quack-kernels", "rich", "starlette", "tilelang",
    "torch", "trio", "triton", "uvicorn", "uvloop", "vllm", "warp-lang", "zstandard",
)  # fmt: skip
"""Whose versions are told, beside all of NVIDIA's."""

MOST_FAILURES = 20
MOST_LOG = 4000
"""Failures, and characters of each log. Pretty arbitrary: what a person reads."""

README = """\
A support file of ajit, made by `ajit doctor --bundle`. Look through it before you send it.

doctor.json       what was checked, and what was found
versions.json     of ajit, Python, the kernel, and of packages that have to do with CUDA
settings.json     each setting, its value and where it came from; secrets are hidden
environment.json  AJIT_* and a few variables about CUDA and paths
cache.json        how many entries there are, of which compilers and architectures, and their size
failures.json     compiles that failed in the last hours{logs}

Taken out: secrets and what looks like one, home directories, the names of this user and machine.
Not in it: sources, compiled bytes, names of kernels other than those that failed, other variables.
"""
LOGS = """, with what the compiler
                  printed: it may quote lines of a source (--no-logs leaves it out)"""


def write_bundle(
    path: Path, settings: Settings, checks: Sequence[Check], *, logs: bool
) -> list[str]:
    """Write a support file, readable by this user alone, and return what is in it.

    Args:
        path: The zip file, which must not be there.
        settings: Of the installation.
        checks: What was found.
        logs: Whether compilers' logs are in it.

    Raises:
        click.UsageError: There is such a file, or it cannot be made. Nothing was written.
    """
    redactor = _redactor(settings)
    documents = dict(_documents(settings, checks, logs=logs))
    members = {"README.txt": README.format(logs=LOGS if logs else "")}
    for name, document in documents.items():
        plain = redactor.value(msgspec.to_builtins({"schema": SCHEMA, **document}, enc_hook=str))
        members[name] = json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(f"{path.stem}/{name}", text.encode("utf-8", "replace"))
    _write_new(path, packed.getvalue())
    return list(members)


def _write_new(path: Path, data: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise click.UsageError(f"{path} is there: name a file that is to be made") from None
    except OSError as exc:
        raise click.UsageError(f"{path}: {exc.strerror}") from None
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise click.UsageError(f"{path}: {exc.strerror}") from None


def _documents(
    settings: Settings, checks: Sequence[Check], *, logs: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "doctor.json", {"checks": checks}
    yield "versions.json", _versions()
    yield "settings.json", {"settings": setting_rows(settings)}
    yield "environment.json", {"variables": _environment()}
    try:
        cache, failures = while_cache_answers(settings, lambda: _of_cache(settings, logs=logs))
    except AjitError as exc:
        cache, failures = {"problem": str(exc)}, []
    yield "cache.json", cache
    yield "failures.json", {"failures": failures}


def _versions() -> dict[str, Any]:
    system = platform.uname()
    found = {}
    for distribution in importlib.metadata.distributions():
        name = (distribution.name or "").lower()
        if name in PACKAGES or name.startswith("nvidia-"):
            found[name] = distribution.version
    return {
        "ajit": __version__,
        "python": sys.version,
        "system": f"{system.system} {system.release} {system.version} {system.machine}",
        "libc": " ".join(platform.libc_ver()),
        "packages": dict(sorted(found.items())),
    }


def _environment() -> dict[str, str]:
    secret = {f"AJIT_{name.upper()}" for name in setting_names() if is_secret(name)}
    shown = (variable_names() - secret).union(VARIABLES)
    return {
        name: value if name in shown else REMOVED
        for name, value in sorted(os.environ.items())
        if name in VARIABLES or name.startswith("AJIT_")
    }


def _of_cache(settings: Settings, *, logs: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The cache in numbers, and its failures."""
    from ajit._cache.entries.failures import FailureStore  # noqa: PLC0415  # command-line start-up

    cache = OpenedCache(settings)
    rows = [row for info in cache.entries() if (row := described(cache, info)) is not None]
    told = summarise(cache.path, rows, cache.lists(), cache.digests())
    told["problems"] = sorted({row.problem for row in rows if row.problem})
    failures = []
    with suppress(CacheError):
        for failure in FailureStore(cache.store.directory, trust=cache.trust).recent(MOST_FAILURES):
            log = _cut(failure.log) if logs else REMOVED
            failures.append(msgspec.structs.asdict(failure) | {"log": log})
    return told, failures


def _cut(log: str) -> str:
    return log if len(log) <= MOST_LOG else f"{log[:MOST_LOG]}\n({len(log)} characters in all)"


def _redactor(settings: Settings) -> Redactor:
    user = pwd_entry()
    # "root" says nothing of anyone, and is in many a text.
    users = {
        os.environ.get("USER", ""),
        os.environ.get("LOGNAME", ""),
        os.environ.get("SUDO_USER", ""),
        user.pw_name if user else "",
    }
    names = dict.fromkeys(users - {"", "root"}, "USER")
    host = platform.node()
    names |= dict.fromkeys({host, host.partition(".")[0]} - {"", "localhost"}, "HOST")
    homes = {os.environ.get("HOME", ""), user.pw_dir if user else ""} - {"", "/"}
    return Redactor(secrets=_secrets(settings), homes=homes, names=names)


def pwd_entry() -> pwd.struct_passwd | None:
    """This user, if he has a name here."""
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid())
    return None


def _secrets(settings: Settings) -> Iterator[str]:
    """What keys are made of, as far as it can be read, and what secret variables have."""
    yield from settings.hmac_key.splitlines()
    yield from (value for name, value in os.environ.items() if is_secret_name(name))
    paths = [*settings.hmac_key_file.split(os.pathsep), settings.signing_key_file]
    for path in filter(None, paths):
        try:
            text = Path(path).expanduser().read_text(errors="replace")
        except OSError:
            if os.sep not in path:
                yield path  # a key where the name of its file was asked for
        else:
            yield from (line.strip() for line in text.splitlines())
