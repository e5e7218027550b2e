"""From a record of used kernels to the keys of their entries in a cache.

Each line is resolved as a frozen server would resolve it, with the compilers and headers of this
machine: so an archive has what the next server finds, and nothing of older sources or compilers.
Nothing is compiled, run or recorded.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ajit.errors import AjitError, CompileForbidden, RecordError

if TYPE_CHECKING:
    from pathlib import Path

    from ajit._core.record import Record, Use
    from ajit._runtime.runtime import Runtime

__all__ = ["keys_of_record"]


def keys_of_record(path: Path, cache_dir: str) -> tuple[list[str], list[str]]:
    """Return the keys that the lines of a record lead to; and what led to none, with the reason.

    Raises:
        RecordError: It cannot be read.
    """
    from ajit._runtime.blocking import run  # noqa: PLC0415  # command-line start-up
    from ajit._runtime.record_files import read_record  # noqa: PLC0415  # the same

    try:
        record = read_record(path, allow_unsafe=False)
    except OSError as exc:
        raise RecordError(path=str(path), reason=exc.strerror or str(exc)) from exc
    work = partial(_resolve, record)
    return run(work, cache_dir=cache_dir, mode="frozen", record="", device="none")


async def _resolve(record: Record, runtime: Runtime) -> tuple[list[str], list[str]]:
    keys, missing = [], []
    for use in record.finished():
        try:
            keys.append(await _key_of(use, record, runtime))
        except CompileForbidden as exc:
            missing.append(f"{use.name} ({use.arch or use.kind}): {exc.key[:16]} is not cached")
        except AjitError as exc:
            reason = str(exc).partition("\n")[0]
            missing.append(f"{use.name} ({use.arch or use.kind}): {reason}")
    return list(dict.fromkeys(keys)), missing


async def _key_of(use: Use, record: Record, runtime: Runtime) -> str:
    from ajit._core.build_form import BUILD_KIND, build_of  # noqa: PLC0415  # start-up
    from ajit._core.spec_form import SPEC_KIND, spec_of  # noqa: PLC0415  # command-line start-up

    if use.kind == SPEC_KIND:
        spec = spec_of(use.build, record.texts)
        return (await runtime.resolve(spec, arch=use.arch or None)).artifact.key
    if use.kind == BUILD_KIND:
        return (await runtime.build(build_of(use.build, record.texts))).key
    reason = f"only a process with {use.peer or use.kind} knows its key; take it with --peer"
    raise RecordError(path=use.name, reason=reason)
