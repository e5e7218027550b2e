"""``ajit dash``: the live page of a cache, for a browser."""

from __future__ import annotations

import errno
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ajit.cli import exits
from ajit.cli.answering import is_missing
from ajit.cli.options import looked_at_option
from ajit.cli.output import Output, json_option, tell_warning
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["command"]

PORT = 8731
"""Pretty arbitrary."""


_OTHER_ADDRESS = "give --host an address of this machine: 127.0.0.1, or 0.0.0.0 for all of them"


@click.command("dash", short_help="Show in a browser what goes on.")
@looked_at_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address or name to listen at."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT,
    show_default=True,
    help="Port to listen at; 0: any.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Another name by which browsers call this machine, as that of a proxy; may be repeated.",
)
@click.option("--logs/--no-logs", default=True, help="Show logs of compiles that failed.")
@click.option(
    "--kv-socket", type=click.Path(), help="KV service to show; default: as for ajit kv status."
)
@json_option
def command(
    *,
    cache_dir: str | None,
    host: str,
    port: int,
    names: Sequence[str],
    logs: bool,
    kv_socket: str | None,
    as_json: bool,
) -> None:
    """Serve a page that shows live what all processes do that use a cache.

    What compiles and who waits for whom; queues, hits, the cache, CUDA threads, and what went
    wrong, with logs. It shows the processes of this machine and user, and asks none of them. It
    changes nothing, and without an open page it does nothing.

    It can be reached from this machine only, unless --host says otherwise: there is no password.
    From another machine, use a tunnel: ssh -L 8731:127.0.0.1:8731 MACHINE. Control-C ends it.
    """
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        needs = f"the live page needs {' and '.join(missing)}"
        raise exits.Lacking(f"{needs}\ntry: pip install 'ajit[dashboard]'")
    from ajit.dashboard.serving import is_loopback, listen, serve, url_of  # noqa: PLC0415  # extra
    from ajit.kv.place import default_socket  # noqa: PLC0415  # start-up

    settings = Settings(cache_dir=cache_dir)
    try:
        listening = listen(host, port)
    except OSError as exc:
        taken = exc.errno in (errno.EADDRINUSE, errno.EACCES)
        hint = "try: --port 0, for any that is free" if taken else _OTHER_ADDRESS
        raise exits.Lacking(f"cannot listen at {host} port {port}: {exc}\n{hint}") from exc
    with listening:
        if not is_loopback(listening):
            tell_warning(
                f"it listens at {url_of(listening)}, and not only for this machine: who can "
                "reach that address reads names of kernels and hosts, and logs; it has no password"
            )
        _tell_started(Output(as_json=as_json), url_of(listening), settings)
        serve(
            listening,
            settings,
            logs=logs,
            names=[host, socket.gethostname(), *names],
            kv_socket=Path(kv_socket) if kv_socket else default_socket(),
        )


def _tell_started(output: Output, url: str, settings: Settings) -> None:
    payload = {"url": url, "pid": os.getpid(), "cache_dir": settings.cache_dir}
    try:
        if sys.stdout is not None:  # it may have been closed
            yet = ", where there is no directory yet" if is_missing(settings.cache_dir) else ""
            output.result(payload, lambda: f"{url} shows {settings.cache_dir}{yet}")
            sys.stdout.flush()
    except OSError as exc:  # a full disk, a pipe without a reader: it serves all the same
        tell_warning(f"standard output cannot be written: {exc}")
