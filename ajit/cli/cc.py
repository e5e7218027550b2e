"""``ajit cc``: a compile through the cache, and counts of what such compiles were.

``ajit cc -- nvcc ...`` never comes here: `ajit.__main__` takes it, without click.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from ajit.cache.presence import must_be_cache
from ajit.cli.options import cache_dir_option
from ajit.cli.output import Output, json_option, table
from ajit.errors import CacheError
from ajit.settings import Settings

if TYPE_CHECKING:
    from ajit.cli.drawing import Drawn

__all__ = ["command"]

_REASONS = ("passed through", "not kept")


@click.command(
    "cc",
    short_help="Run a compiler through the cache.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--statistics", is_flag=True, help="Print what was counted so far.")
@click.option("--zero", is_flag=True, help="Forget what was counted.")
@cache_dir_option
@json_option
@click.argument("compile_command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMPILER ARGS...")
def command(
    *,
    statistics: bool,
    zero: bool,
    cache_dir: str | None,
    as_json: bool,
    compile_command: tuple[str, ...],
) -> int:
    """Run a compiler, or give what it gave before.

    What a compile reads is recorded, so that its result is found again while all of that is the
    same. What cannot be kept is run as it stands, and counted with the reason. The exit code is the
    compiler's. As programs of their own, ajit-nvcc, ajit-c++ and ajit-ptxas do the same.

    A build system is told, for instance: CMAKE_CUDA_COMPILER_LAUNCHER="ajit;cc;--".
    """
    if compile_command:
        from ajit._launcher.main import launch  # noqa: PLC0415  # start-up

        if cache_dir is not None:
            os.environ["AJIT_CACHE_DIR"] = cache_dir
        return launch(list(compile_command))
    if not statistics and not zero:
        raise click.UsageError("no compiler: ajit cc -- COMPILER ARGS, or ajit cc --statistics")
    path = Settings(cache_dir=cache_dir, config_files=False).cache_dir
    if statistics and not path.exists():
        must_be_cache(path)
    cache = str(path)
    payload = _statistics(cache)
    if zero:
        _forget(cache)
    Output(as_json=as_json).result(payload, lambda: _draw(payload))
    return 0


def _statistics(cache: str) -> dict[str, Any]:
    from ajit._launcher.tally import totals  # noqa: PLC0415  # start-up

    try:
        counts = totals(cache)
    except OSError as exc:
        raise CacheError(path=cache, reason=exc.strerror or str(exc)) from exc
    payload: dict[str, Any] = {"cache_dir": cache}
    for name, labels in _SUMS.items():
        payload[name] = sum(counts.pop(label, 0) for label in labels)
    for kind in _REASONS:
        found = {what: counts.pop(what) for what in list(counts) if what.startswith(f"{kind}: ")}
        payload[kind.replace(" ", "_")] = {
            what.partition(": ")[2]: number for what, number in sorted(found.items())
        }
    return payload


_SUMS = {
    "hits": ("hit", "hit after waiting"),
    "compiled": ("compiled",),
    "failed": ("failed", "failure after waiting"),
}


def _forget(cache: str) -> None:
    from ajit._launcher.tally import reset  # noqa: PLC0415  # start-up

    try:
        reset(cache)
    except OSError as exc:
        raise CacheError(path=cache, reason=exc.strerror or str(exc)) from exc


def _draw(payload: dict[str, Any]) -> Drawn:
    rows = [(name, str(payload[name])) for name in _SUMS]
    for kind in _REASONS:
        counts = payload[kind.replace(" ", "_")]
        rows += [(f"{kind}: {reason}", str(number)) for reason, number in counts.items()]
    drawn = table("compiles", "number", numbers=["number"])
    for row in rows:
        drawn.add_row(*row)
    return drawn
