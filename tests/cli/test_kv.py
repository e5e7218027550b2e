"""``ajit kv``: a service that is started, asked and ended as operators do it."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request

import anyio
import pytest

from ajit.cli import exits
from ajit.kv import chunk_digests, connect
from tests.kv.store_support import read_prompt, space_named, store_prompt


@pytest.fixture
def place(tmp_path):
    """A socket in a folder of this user's."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    return folder / "kv.sock"


@pytest.fixture
def serving(ajit, place):
    """A service that listens."""
    service = ajit.start("kv", "serve", "--socket", place, "--limit", "1MiB", "--slab", "64KiB")
    assert str(place) in service.stdout.readline()
    yield service
    service.kill()
    service.communicate()


async def use(place) -> int:
    """Store a prompt, and find it."""
    space = space_named("small")
    digests = chunk_digests(space, range(8))
    async with connect(place) as store:
        await store_prompt(store, space, digests)
        return await read_prompt(store, space, digests)


def test_status_shows_what_clients_did(ajit, serving, place):
    """For readers, and as one object."""
    found = anyio.run(use, place)
    shown = ajit("kv", "status", "--socket", place)
    told = ajit("kv", "status", "--socket", place, "--json").json()

    assert found == 2
    assert (told["chunks"], told["chunks_found"], told["pid"]) == (2, 2, serving.pid)
    assert told["ping_seconds"] > 0
    assert told["clients"] == 0
    assert "8.0 KiB of 1.0 MiB used" in shown.out
    assert "100% of their chunks found" in shown.out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_the_service_well(serving, place, number):
    """Code 0, so that a supervisor does not call it a failure; the socket is gone."""
    serving.send_signal(number)
    _, said = serving.communicate(timeout=60)

    assert (serving.returncode, said) == (exits.FINE, "")
    assert not place.exists()


def test_a_second_service_says_who_is_there(ajit, serving, place):
    """And does not take the first one's place."""
    second = ajit("kv", "serve", "--socket", place, "--json")

    assert second.code == exits.ENVIRONMENT
    assert second.json()["error"] == "KvError"
    assert "another service listens there" in second.err
    assert ajit("kv", "status", "--socket", place).code == exits.FINE


def test_without_a_service_status_says_how_to_start_one(ajit, place):
    """No traceback, and no wait."""
    told = ajit("kv", "status", "--socket", place)

    assert told.code == exits.ENVIRONMENT
    assert "ajit kv serve" in told.err


def test_the_default_socket_is_named_with_the_ways_to_another_one(ajit, tmp_path):
    """Whoever forgot --socket sees where status looked; the variable does the same."""
    told = ajit("kv", "status", XDG_RUNTIME_DIR=str(tmp_path / "none"))
    named = ajit("kv", "status", AJIT_KV_SOCKET=str(tmp_path / "mine.sock"))

    assert told.code == named.code == exits.ENVIRONMENT
    assert f"{tmp_path}/none/ajit/kv.sock" in told.err
    assert "there is no socket" in told.err
    assert "--socket or AJIT_KV_SOCKET" in told.err
    assert f"{tmp_path}/mine.sock" in named.err
    assert "unknown variable" not in named.err


def test_a_place_that_is_no_socket_is_called_so(ajit, place):
    """Starting a service there would not help, and is not advised."""
    place.write_text("precious")
    told = ajit("kv", "status", "--socket", place)

    assert told.code == exits.ENVIRONMENT
    assert "what is there is no socket" in told.err
    assert "starts one" not in told.err


def test_a_socket_that_was_left_behind_is_called_so(ajit, serving, place):
    """Its service was killed."""
    serving.kill()
    serving.wait(60)
    told = ajit("kv", "status", "--socket", place)

    assert told.code == exits.ENVIRONMENT
    assert "none listens: its service was killed" in told.err
    assert "`ajit kv serve` starts one" in told.err


@pytest.mark.slow  # it waits for a hello that does not come
def test_a_service_that_is_stopped_is_not_called_absent(ajit, serving, place):
    """Status says that one listens: starting another would not help."""
    serving.send_signal(signal.SIGSTOP)
    try:
        told = ajit("kv", "status", "--socket", place)
    finally:
        serving.send_signal(signal.SIGCONT)

    assert told.code == exits.ENVIRONMENT
    assert "it accepts connections, but did not answer" in told.err
    assert "no service listens" not in told.err


@pytest.mark.parametrize(
    "options",
    [("--limit", "many"), ("--limit", "1KiB"), ("--slab", "5000"), ("--reserve-time", "0s")],
    ids=" ".join,
)
def test_options_that_cannot_be_are_usage_errors(ajit, place, options):
    """Before anything is made."""
    told = ajit("kv", "serve", "--socket", place, *options)

    assert told.code == exits.USAGE
    assert not place.exists()


def test_a_supervisor_is_told_when_it_listens(ajit, place, tmp_path):
    """As sd_notify does, and with --json a program is, too."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(60)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        service = ajit.start("kv", "serve", "--socket", place, "--limit=64MiB", "--json", **environ)
        told = supervisor.recv(100)
        mode = os.stat(place).st_mode & 0o777  # noqa: PTH116
        service.terminate()
        out, _ = service.communicate(timeout=60)

    assert told == b"READY=1"
    assert mode == 0o600
    told = {"schema": 1, "socket": str(place), "pid": service.pid, "limit_bytes": 64 << 20}
    assert json.loads(out) == told


@pytest.mark.parametrize("address", ["/nowhere/notify", "@" + "x" * 200])
def test_a_supervisor_that_is_not_there_ends_no_service(ajit, place, address):
    """A warning says so, and it serves."""
    options = ("--socket", place, "--limit=1MiB")
    service = ajit.start("kv", "serve", *options, NOTIFY_SOCKET=address)
    try:
        line = service.stdout.readline()
        asked = ajit("kv", "status", "--socket", place)
    finally:
        service.terminate()
        _, err = service.communicate(timeout=60)

    assert line.startswith("serving up to")
    assert exits.FINE == asked.code
    assert "cannot be told that the service is ready" in err
    assert "Traceback" not in err


def test_metrics_are_printed_and_served(ajit, place):
    """The same names by both; the line that says it listens has the URL."""
    options = ("--socket", place, "--limit=1MiB", "--metrics", "127.0.0.1:0")
    service = ajit.start("kv", "serve", *options)
    try:
        url = service.stdout.readline().split()[-1]
        with urllib.request.urlopen(url, timeout=60) as page:  # noqa: S310 - http, of this test
            served = page.read().decode()
        printed = ajit("kv", "status", "--socket", place, "--metrics")
    finally:
        service.terminate()
        service.communicate(timeout=60)

    names = [line.split()[0] for line in served.splitlines() if not line.startswith("#")]
    assert "ajit_kv_limit_bytes 1048576" in served
    assert names == [x.split()[0] for x in printed.out.splitlines() if not x.startswith("#")]
    assert service.returncode == exits.FINE


def test_metrics_are_for_this_machine_only(ajit, place):
    """Another address is a usage error that says which option it needs."""
    told = ajit("kv", "serve", "--socket", place, "--metrics", "0.0.0.0:0")

    assert told.code == exits.USAGE
    assert "can be reached from other machines" in told.err
    assert not place.exists()
