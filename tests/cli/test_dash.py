"""`ajit dash`: where it listens, what it says, and how it ends."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import urllib.error
import urllib.request

import pytest

from ajit.cli import exits
from tests.dashboard.served import Served
from tests.runtime.test_board import until


@pytest.fixture
def boards(tmp_path):
    """Where boards are."""
    place = tmp_path / "boards"
    place.mkdir()
    return place


def get(url, **headers):
    """Status and text of an answer."""
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  # our own server
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # the same
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("number", "ended"),
    [
        (signal.SIGTERM, (exits.TERMINATED, "ajit: terminated")),
        (signal.SIGINT, (exits.INTERRUPTED, "ajit: interrupted")),
    ],
)
def test_it_serves_until_it_is_told_to_end(tmp_path, boards, number, ended):
    """For this machine only; also while a page is open. It ends as any command by that signal."""
    with Served(tmp_path / "cache", boards) as served:
        status, page = get(served.url)
        with urllib.request.urlopen(f"{served.url}events", timeout=60) as stream:  # noqa: S310
            first = stream.readline()
            code, said = served.end(number)

    assert served.url.startswith("http://127.0.0.1:")
    assert (200, b"retry: 250\n") == (status, first)
    assert "Who waits for whom" in page
    assert ended == (code, said.strip())


@pytest.mark.slow  # five seconds are their time
def test_connections_that_ask_for_nothing_are_closed(tmp_path, boards):
    """At once, after half a request, or half a second one: they would shut all others out."""
    whole, half = b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHost:"
    with Served(tmp_path / "cache", boards) as served, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", int(served.url.rpartition(":")[2].strip("/")))
        idle = [
            stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(3)
        ]
        idle[1].sendall(half)
        idle[2].sendall(whole)
        answer = idle[2].recv(100)
        idle[2].sendall(half)
        for one in idle:
            while one.recv(65536):  # until it is closed
                pass
        status, _ = get(served.url)

    assert answer.startswith(b"HTTP/1.1 200")
    assert status == 200


@pytest.mark.slow  # five seconds are its time, or ten
@pytest.mark.parametrize("requests", [8, 1000])
def test_connection_that_reads_nothing_is_closed(tmp_path, boards, requests):
    """However much it has asked for before: few responses wait in full, many fill what can wait."""
    whole = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with Served(tmp_path / "cache", boards) as served, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", int(served.url.rpartition(":")[2].strip("/"))))
        deaf.sendall(whole * requests)
        until(lambda: served.connections() == 1)
        until(lambda: served.connections() == 0)


def test_it_makes_no_cache(tmp_path, boards):
    """And says on the page that there is none."""
    with Served(tmp_path / "cache", boards) as served:
        text = ""
        while "there is no such directory" not in text:
            _, text = get(f"{served.url}snapshot.json")

    assert "bad" == json.loads(text)["headline"]["level"]
    assert not (tmp_path / "cache").exists()


def test_another_name_is_refused(tmp_path, boards):
    """DNS rebinding; the machine's own name, and one that is given, are served."""
    with Served(tmp_path / "cache", boards, "--name", "kernels.example") as served:
        answers = [
            get(f"{served.url}page.css", host=name)[0]
            for name in ("evil.example", "kernels.example:80", socket.gethostname(), "localhost")
        ]

    assert [421, 200, 200, 200] == answers


def test_it_says_so_where_others_can_reach_it(tmp_path, boards):
    """On standard error, with what they can read."""
    with Served(tmp_path / "cache", boards, "--host", "0.0.0.0") as served:  # noqa: S104  # that is it
        _, said = served.end()

    assert "warning: it listens at http://0.0.0.0:" in said
    assert "it has no password" in said


def test_an_address_that_is_taken_is_told(ajit):
    """With a way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = ajit("dash", "--port", taken.getsockname()[1])

    assert exits.ENVIRONMENT == ended.code
    assert "Address already in use" in ended.err
    assert "try: --port 0" in ended.err


def test_an_address_that_is_none_is_told(ajit):
    """No traceback."""
    ended = ajit("dash", "--host", "300.300.300.300")

    assert exits.ENVIRONMENT == ended.code
    assert "cannot listen at 300.300.300.300" in ended.err
    assert "--port" not in ended.err
    assert "give --host an address of this machine" in ended.err
    assert "Traceback" not in ended.err
