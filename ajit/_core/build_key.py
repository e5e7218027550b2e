"""The base key of a build: SHA-256 over all that is known before it runs and decides its result.

As for a spec (`ajit._core.key`), there is no path of the machine in it and no file is read for it.
The texts have their placeholders, so that neither directories nor the number of jobs count. The
name and the limits are left out, for they do not reach what is run.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ajit._core.build import Command
from ajit._core.bundle import BUNDLE_VERSION
from ajit._core.job import BuildRun, CompileJob
from ajit._core.key import Key, key_of_parts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ajit._core.build import Build

__all__ = ["build_job", "make_build_key"]

BUILD_SCHEMA = 1
"""Raised when the meaning of a part changes; every older bundle is then a miss."""


def make_build_key(
    build: Build, machine: str, sandbox: str = "", nesting: Iterable[str] = ()
) -> Key:
    """Return the base key of a build.

    Args:
        build: What is asked for.
        machine: What programs of this machine run on: its architecture, or its kind of CPU where
            the build asks for the machine at hand.
        sandbox: What may be read, if that is confined.
        nesting: How its directories lie in each other.
    """
    return key_of_parts(_parts(build, machine, sandbox, nesting))


def build_job(build: Build, key: str, dirs: Iterable[str]) -> CompileJob:
    """Return the job that a build asks for.

    Args:
        build: The build.
        key: Its hex base key.
        dirs: Its directories as absolute paths, in the order of `Build.dirs`.
    """
    return CompileJob(
        key=key,
        name=build.name,
        source="",
        entries=(),
        compiler="build",
        arch="",
        include_dirs=tuple(dirs),
        build=_run_of(build),
    )


def _run_of(build: Build) -> BuildRun:
    run = build.run
    terms: dict[str, Any] = {
        "env": run.env,
        "outputs": build.outputs,
        "dirs": tuple(name for name, _ in build.dirs),
        "jobs": build.jobs,
        "timeout_seconds": build.timeout_seconds,
        "limit_bytes": build.limit_bytes,
    }
    if isinstance(run, Command):
        files, templates, copies = run.files, run.templates, run.copies
        return BuildRun(argv=run.argv, files=files, templates=templates, copies=copies, **terms)
    return BuildRun(function=run.function, arguments=run.arguments, **terms)


def _parts(
    build: Build, machine: str, sandbox: str, nesting: Iterable[str]
) -> Iterable[tuple[str, str]]:
    yield "schema", f"build {BUILD_SCHEMA}.{BUNDLE_VERSION}"
    yield "machine", machine
    if sandbox:
        yield "sandbox", sandbox
    yield from _parts_of_run(build)
    for pattern in build.outputs:
        yield "output", pattern
    for name, _ in build.dirs:
        yield "dir", name
    for relation in nesting:
        yield "nested directory", relation
    for label, text in build.key_parts:
        yield f"part {label}", text
    if build.extra_digest is not None:
        yield "extra digest", build.extra_digest


def _parts_of_run(build: Build) -> Iterable[tuple[str, str]]:
    run = build.run
    if isinstance(run, Command):
        for index, argument in enumerate(run.argv):
            yield f"argument {index}", argument
        for name, content in run.files:
            yield f"content {name}", _digest(content)
        for name, text in run.templates:
            yield f"template {name}", _digest(text.encode())
        for name, _ in run.copies:
            yield "copy", name
    else:
        yield "function", run.function
        yield "arguments", _digest(run.arguments)
    for name, value in run.env:
        yield f"variable {name}", value


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()} ({len(content)} bytes)"
