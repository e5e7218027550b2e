"""``ajit kv``: serve a KV cache to the engines of this machine, and look at what is served."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import click

from ajit.cli.options import byte_size, duration
from ajit.cli.output import (
    Output,
    count,
    facts,
    format_age,
    format_bytes,
    format_seconds,
    json_option,
    tell_warning,
)
from ajit.cli.streams import OutputFailed, drop_output
from ajit.errors import KvError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit._system.numa import NumaNode
    from ajit.cli.drawing import Drawn
    from ajit.kv.client import StoreClient
    from ajit.kv.options import StoreOptions
    from ajit.kv.service import Service

__all__ = ["command"]

TIMEOUT_SECONDS = 5.0
"""How long `ajit kv status` waits for an answer."""


def socket_option(function: Callable[..., object]) -> Callable[..., object]:
    """Let a command take ``--socket``."""
    return click.option(
        "--socket",
        "path",
        type=click.Path(),
        help="Socket of the service; default: $AJIT_KV_SOCKET, else $XDG_RUNTIME_DIR/ajit/kv.sock, "
        "else kv.sock in /tmp/ajit-kv-UID.",
    )(function)


@click.group("kv", short_help="Serve a KV cache to engines.")
def command() -> None:
    """Keep the KV cache of finished prefixes outside of the GPU, for all engines of this machine.

    The service keeps memory and index; engines map the memory and copy themselves.
    """


@command.command("serve", short_help="Serve until ended by a signal.")
@socket_option
@click.option("--limit", default="4GiB", show_default=True, help="Most memory for chunks.")
@click.option(
    "--slab", default="0", help="Memory is taken in pieces of this size; 0: by the limit."
)
@click.option("--credit", default="0", help="Most that one client may have reserved; 0: a quarter.")
@click.option(
    "--quota", default="0", help="Most bytes of each salt, so that none pushes others out; 0: none."
)
@click.option(
    "--reserve-time",
    default="60s",
    show_default=True,
    help="A reservation that takes longer is dropped, so that others may store its chunks.",
)
@click.option("--huge-pages/--no-huge-pages", default=True, help="Use huge pages if there are any.")
@click.option(
    "--numa-node", default="", help="Memory of this NUMA node: a number, or device, the GPUs'."
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Serve metrics for Prometheus there, under /metrics; for this machine only.",
)
@click.option("--metrics-anywhere", is_flag=True, help="Let other machines scrape, too.")
@json_option
def serve_(path: str | None, *, as_json: bool, **given: Any) -> None:
    """Serve a KV cache on a unix socket of this user.

    Prints one line when it listens; a supervisor with NOTIFY_SOCKET (systemd, Type=notify) is told
    as well. SIGTERM and SIGINT end it, with exit code 0. Its clients miss from then on, and connect
    again when a service listens there.
    """
    from ajit.kv.scraping import parse_address  # noqa: PLC0415  # start-up

    options, metrics = _options(given), given["metrics"]
    address = parse_address(metrics, anywhere=given["metrics_anywhere"]) if metrics else None
    stay = partial(_stay, Output(as_json=as_json), address)
    anyio.run(_serve_until_signal, options, path, stay)


def _options(given: dict[str, Any]) -> StoreOptions:
    from ajit.kv.options import StoreOptions  # noqa: PLC0415  # start-up

    return StoreOptions(
        limit_bytes=byte_size(given["limit"]),
        slab_bytes=byte_size(given["slab"]),
        credit_bytes=byte_size(given["credit"]),
        quota_bytes=byte_size(given["quota"]),
        reserve_seconds=duration(given["reserve_time"]),
        huge_pages=given["huge_pages"],
        numa_node=_numa_node(given["numa_node"]),
    )


def _numa_node(given: str) -> NumaNode:
    if not given or given == "device":
        return "device" if given else None
    if not given.isdigit():
        raise click.BadParameter("a number, or device", param_hint="--numa-node")
    return int(given)


async def _serve_until_signal(
    options: StoreOptions, path: str | None, main: Callable[[Service], Awaitable[None]]
) -> None:
    from ajit.kv.service import serve  # noqa: PLC0415  # start-up

    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as group:
            group.start_soon(serve, options, path, main)
            async for _ in signals:
                group.cancel_scope.cancel()
                return


async def _stay(output: Output, metrics: tuple[str, int] | None, service: Service) -> None:
    """Say that the service is there, and serve its metrics."""
    from ajit.kv.scraping import serving_metrics  # noqa: PLC0415  # start-up

    async with AsyncExitStack() as stack:
        url = ""
        if metrics is not None:
            url = await stack.enter_async_context(serving_metrics(metrics, service.values))
        _tell_started(output, service, url)
        await anyio.sleep_forever()


def _tell_started(output: Output, service: Service, metrics: str) -> None:
    limit = service.keeper.options.limit_bytes
    payload = {"socket": service.path, "pid": os.getpid(), "limit_bytes": limit}
    line = f"serving up to {format_bytes(limit)} on {service.path}"
    if metrics:
        payload["metrics"] = metrics
        line += f", and metrics on {metrics}"
    try:
        output.result(payload, lambda: line)
        sys.stdout.flush()
    except OutputFailed as exc:  # a full disk, a pipe without a reader: it serves all the same
        drop_output()
        tell_warning(f"standard output cannot be written: {exc}")
    _tell_supervisor()


def _tell_supervisor() -> None:
    """Say that the service is ready, as sd_notify(3) does."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            # A leading @ stands for an abstract name, which begins with a NUL.
            notify.connect("\0" + address[1:] if address[0] == "@" else address)
            notify.send(b"READY=1")
    except OSError as exc:
        tell_warning(f"NOTIFY_SOCKET {address} cannot be told that the service is ready: {exc}")


@command.command("status", short_help="What a service holds, and how it is.")
@socket_option
@click.option("--metrics", is_flag=True, help="Print the metrics for Prometheus instead.")
@json_option
def status(path: str | None, *, metrics: bool, as_json: bool) -> None:
    """Show what a service holds, what it has done, and how long it takes to answer.

    Exits with 4 if no service listens there, or none answers.
    """
    payload = anyio.run(_ask, path)
    if metrics and not as_json:
        from ajit.kv.metrics import metrics_text  # noqa: PLC0415  # start-up

        click.echo(metrics_text(payload), nl=False)
        return
    Output(as_json=as_json).result(payload, lambda: _draw(payload))


async def _ask(path: str | None) -> dict[str, Any]:
    from ajit.kv.client import watch  # noqa: PLC0415  # start-up
    from ajit.kv.place import default_socket  # noqa: PLC0415

    place = Path(path or default_socket())
    async with watch(place, timeout=TIMEOUT_SECONDS) as store:
        ping = await store.ping()
        values = await store.service_statistics()
        if ping is None or values is None:
            raise _absent(place, store, given=path is not None)
        return {"socket": str(place), "ping_seconds": ping, **values}


def _absent(place: Path, store: StoreClient, *, given: bool) -> KvError:
    from ajit.kv.place import what_is_at  # noqa: PLC0415  # start-up

    statistics = store.statistics()
    if statistics.connections:
        return KvError(path=str(place), reason=f"it does not answer for {TIMEOUT_SECONDS:g} s")
    if "it accepts connections" in statistics.problem:
        return KvError(path=str(place), reason=f"no service answers: {statistics.problem}")
    hint = "`ajit kv serve` starts one"
    if not given:
        hint = "this is the default; --socket or AJIT_KV_SOCKET names another one, and " + hint
    reason = f"no service answers: {what_is_at(place)}"
    if "no socket" in reason and place.exists():
        hint = "--socket names the socket that `ajit kv serve` listens at"
    return KvError(path=str(place), reason=reason, hint=hint)


def _draw(values: dict[str, Any]) -> Drawn:
    wanted, found = values["chunks_wanted"], values["chunks_found"]
    share = f", {found / wanted:.0%} of their chunks found" if wanted else ""
    used, limit = format_bytes(values["used_bytes"]), format_bytes(values["limit_bytes"])
    taken = format_bytes(values["slab_bytes"])
    leases = count(values["leases"], "lease", "leases")
    reservations = count(values["reservations"], "reservation", "reservations")
    lag, longest = values["lag_seconds"], values["longest_lag_seconds"]
    return facts(
        [
            ("socket", values["socket"]),
            ("process", f"{values['pid']}, up for {format_age(values['up_seconds'])}"),
            ("answers in", f"{format_seconds(values['ping_seconds'])}"),
            ("loop lag", f"{format_seconds(lag)}, at most {format_seconds(longest)}"),
            ("memory", f"{used} of {limit} used, {taken} taken from the system"),
            ("chunks", f"{values['chunks']}, {values['chunks_evicted']} evicted so far"),
            ("lookups", f"{values['lookups']}{share}"),
            ("stored", f"{values['chunks_stored']} chunks, {values['refused']} times busy"),
            ("clients", f"{values['clients']}, with {leases} and {reservations}"),
            ("ended", f"{values['lingering']} connections whose processes may still copy"),
            *([("problem", values["problem"])] if values["problem"] else []),
        ]
    )
