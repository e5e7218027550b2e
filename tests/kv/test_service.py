"""The service and its client: restarts, deadlines, who may connect, and what is kept for whom."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ajit.errors import KvError
from ajit.kv import chunk_digests, connect, open_service
from ajit.kv import connector as connector_module
from ajit.kv import peer as peer_module
from ajit.kv import service as service_module
from ajit.kv.framing import framed
from ajit.kv.health import HealthReader
from ajit.kv.memory import Slab, SlabError
from ajit.kv.messages import (
    VERSION,
    Abort,
    Bye,
    Cancel,
    Done,
    Failed,
    Find,
    Found,
    Hello,
    Ping,
    Pong,
    Refused,
    Release,
    Reserve,
    Reserved,
    Retired,
    Welcome,
    encode,
)
from ajit.kv.place import claim, default_socket
from ajit.kv.sockets import UnixStream
from tests.kv.raw import raw_client
from tests.kv.store_support import CHUNK_BYTES, content, options, prompt, read_prompt, store_prompt

pytestmark = pytest.mark.anyio

LONG_SECONDS = 60
"""Ends what hangs."""


async def until(condition) -> None:
    """Wait for what other tasks or processes do."""
    with anyio.fail_after(LONG_SECONDS):
        while not condition():  # noqa: ASYNC110 - it has no event
            await anyio.sleep(0.005)


# --- restarts ---


async def test_without_a_service_a_client_misses_and_raises_nothing(path, space):
    """And waits for nothing."""
    digests = chunk_digests(space, prompt(1, 2))
    async with connect(path) as store:
        found = await read_prompt(store, space, digests)
        async with store.reserve(space, digests) as slots:
            reason = slots.reason
        statistics = store.statistics()

        assert (found, reason) == (0, "disconnected")
        assert await store.ping() is None
        assert await store.service_statistics() is None
        assert await store.discard(space, digests[0]) == 0
        assert store.health() is None
        assert (statistics.connected, statistics.connections) == (False, 0)
        assert "FileNotFoundError" in statistics.problem


async def test_a_client_connects_again_after_a_restart(path, space):
    """To an empty store; what it holds of the former one stays readable."""
    digests = chunk_digests(space, prompt(1, 2))
    async with connect(path) as store:
        async with open_service(options(), path):
            await store.wait_connected()
            await store_prompt(store, space, digests)
            lease = await store.lease(space, digests=digests)
            first = store.health().boot
        await until(lambda: not store.statistics().connected)
        missed = await read_prompt(store, space, digests)
        async with open_service(options(), path):
            await store.wait_connected()
            empty = await read_prompt(store, space, digests)
            second = store.health().boot
            stored = await store_prompt(store, space, digests)
            kept = [bytes(lease.view(i)) for i in range(2)]
            lease.release()
            again = await read_prompt(store, space, digests)

        assert (missed, empty, stored, again) == (0, 0, 2, 2)
        assert kept == [content(digest) for digest in digests]
        assert first != second
        assert store.statistics().connections == 2


async def test_a_commit_to_a_service_that_has_gone_is_no_error(path, space):
    """Nothing is stored, and the engine goes on."""
    async with connect(path) as store:
        async with open_service(options(), path):
            await store.wait_connected()
            slots = await store.reserve(space, chunk_digests(space, prompt(1, 2)))
        await until(lambda: not store.statistics().connected)

        assert await slots.commit() is False
        assert store.statistics().held == 0


async def start_service(path, **environment) -> subprocess.Popen:
    """Start a service in a process of its own, and wait until it listens."""
    program = (
        "import anyio, sys\n"
        "from ajit.kv import open_service\n"
        "from tests.kv.store_support import options\n"
        "async def main():\n"
        "    async with open_service(options(), sys.argv[1]):\n"
        "        print('ready', flush=True)\n"
        "        await anyio.sleep_forever()\n"
        "anyio.run(main)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert await anyio.to_thread.run_sync(process.stdout.readline) == "ready\n"
    return process


async def end(process) -> None:
    """Kill it, and wait for it."""
    process.kill()
    await anyio.to_thread.run_sync(process.wait)
    process.stdout.close()


def test_a_service_that_ends_leaves_the_socket_of_another_alone(path):
    """A cleaner had removed its lock and its socket, and another service has come since."""
    first = claim(path)
    path.unlink()
    path.with_name(f"{path.name}.lock").unlink()
    second = claim(path)

    first.give_up()

    assert path.is_socket()
    second.give_up()
    assert not path.exists()


async def test_a_killed_service_costs_misses_only(path, space):
    """Its socket is left behind; the next service takes the place."""
    digests = chunk_digests(space, prompt(1, 2))
    process = await start_service(path)
    try:
        async with connect(path) as store:
            await store_prompt(store, space, digests)
            lease = await store.lease(space, digests=digests)
            process.kill()
            await until(lambda: not store.statistics().connected)
            kept = [bytes(lease.view(i)) for i in range(2)]
            lease.release()
            async with open_service(options(), path):
                await store.wait_connected()
                stored = await store_prompt(store, space, digests)

            assert kept == [content(digest) for digest in digests]
            assert stored == 2
    finally:
        await end(process)


async def test_a_stopped_service_costs_one_timeout_and_then_nothing(path, space):
    """Its page stands still, so it is asked no more until it goes on."""
    digests = chunk_digests(space, prompt(1, 2))
    process = await start_service(path)
    try:
        async with connect(path, timeout=0.2, patience_seconds=0.3) as store:
            await store_prompt(store, space, digests)
            process.send_signal(signal.SIGSTOP)
            first = await read_prompt(store, space, digests)
            await until(lambda: store.health().silent_seconds > 0.3)
            second = await read_prompt(store, space, digests)
            stopped = store.statistics()
            process.send_signal(signal.SIGCONT)
            beat = store.health().beat
            await until(lambda: store.health().beat > beat)
            found = []
            with anyio.fail_after(LONG_SECONDS):
                while not found or found[-1] == 0:
                    found.append(await read_prompt(store, space, digests))
            leases = await store.service_statistics()

            assert (first, second) == (0, 0)
            assert (stopped.timeouts, stopped.silent) == (1, 1)
            assert found[-1] == 2
            assert leases["leases"] == 0
    finally:
        await end(process)


# --- what is kept for whom ---


async def test_memory_of_a_lost_connection_is_kept_until_its_copies_have_ended(path, space):
    """Its process lives, and may copy: the end of a connection is not the end of that."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_service(options(), path) as service:
        keeper = service.keeper
        async with raw_client(path) as raw:
            await raw.opens(space)
            await raw.say(Reserve(1, 0, b"", b"".join(digests), 60.0))
            assert isinstance(await raw.hear(), Reserved)
        await until(lambda: service.statistics().lingering == 1)
        kept = (keeper.ledger.arena.used_bytes, keeper.ledger.chunks)
        async with raw_client(path) as other:
            await other.say(Retired(1, raw.token))
            await other.hear()
            await until(lambda: service.statistics().lingering == 0)

        assert kept == (2 * CHUNK_BYTES, 0)
        assert keeper.ledger.arena.used_bytes == 0


async def test_a_lost_connection_that_held_nothing_is_forgotten_at_once(path, space):
    """However many a process that lives opens and loses."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_service(options(), path) as service:
        for _ in range(3):
            async with raw_client(path) as raw:
                await raw.opens(space)
                await raw.say(Reserve(1, 0, b"", b"".join(digests), 60.0))
                reserved = await raw.hear()
                await raw.say(Abort(2, reserved.reservation))
                await raw.hear()
        await until(lambda: service.keeper.ledger.owners == 0)

        assert service.statistics().lingering == 0


async def test_a_client_may_see_the_end_of_a_connection_first(path, space):
    """It says that its copies have ended before the service has seen that it is lost."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_service(options(), path) as service, raw_client(path) as raw:
        await raw.opens(space)
        await raw.say(Reserve(1, 0, b"", b"".join(digests), 60.0))
        await raw.hear()
        async with raw_client(path, retired=[raw.token]):
            ended = await raw.hears_the_end()
            await until(lambda: service.keeper.ledger.arena.used_bytes == 0)

        assert ended
        assert service.statistics().lingering == 0


async def test_what_is_granted_in_the_turn_of_a_cancellation_is_given_back(path, space):
    """The task is cancelled, and before it runs the answer comes."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_service(options(), path) as service, connect(path) as store:
        await store_prompt(store, space, digests)
        async with anyio.create_task_group() as group:
            settle = store._connector.link._settle

            def cancel_then(answer):
                if isinstance(answer, Found):
                    group.cancel_scope.cancel()
                settle(answer)

            store._connector.link._settle = cancel_then
            await store.ping()  # the former method was on its way already
            group.start_soon(store.lease(space, digests=digests).__aenter__)
        await store.ping()
        await store.ping()

        assert store.statistics().held == 0
        assert service.keeper.ledger.leases == 0


async def test_a_client_says_when_its_copies_have_ended(path, space):
    """After its connection was closed by the service; a hold is a copy on its way."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_service(options(), path) as service, connect(path) as store:
        slots = await store.reserve(space, digests)
        hold = slots.hold()
        for connection in service._connections:
            connection.close()
        await until(lambda: store.statistics().connections == 2)
        slots.release()
        await store.ping()
        kept = service.keeper.ledger.arena.used_bytes
        hold.release()
        await until(lambda: service.keeper.ledger.arena.used_bytes == 0)

        assert kept == 2 * CHUNK_BYTES
        assert store.statistics().held == 0
        await until(lambda: service.statistics().lingering == 0)


async def test_a_client_that_says_goodbye_is_gone_at_once(path, space):
    """Though its process lives on."""
    async with open_service(options(), path) as service:
        async with connect(path) as store:
            await store_prompt(store, space, chunk_digests(space, prompt(1, 2)))
        await until(lambda: service.keeper.ledger.owners == 0)
        async with raw_client(path) as raw:
            await raw.say(Bye())
            assert await raw.hears_the_end()
        await until(lambda: service.keeper.ledger.owners == 0)

        assert service.statistics().lingering == 0


async def test_a_call_that_is_cancelled_holds_nothing(path, space):
    """What the service grants later is given back."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_service(options(), path) as service, connect(path) as store:
        await store_prompt(store, space, digests)
        for _ in range(3):
            async with anyio.create_task_group() as group:
                group.start_soon(store.lease(space, digests=digests).__aenter__)
                group.start_soon(
                    store.reserve(space, chunk_digests(space, prompt(2, 2))).__aenter__
                )
                await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        await store.ping()  # all that was granted has come, and was given back
        await store.ping()  # which the service has seen

        assert store.statistics().held == 0
        assert (service.keeper.ledger.leases, service.keeper.ledger.reservations) == (0, 0)


# --- each request is answered once ---


async def test_a_request_past_its_deadline_is_answered(path, space):
    """With an error, while what it waits for goes on."""
    digests = b"".join(chunk_digests(space, prompt(1, 2)))
    async with open_service(options(), path), raw_client(path) as raw:
        await raw.opens(space)
        await raw.say(Reserve(1, 0, b"", digests, 60.0))
        await raw.hear()
        await raw.say(Find(2, 0, digests, 0.05, wait=60.0))
        answer = await raw.hear()
        await raw.say(Ping(3))

        assert (answer.id, answer.code) == (2, "deadline")
        assert isinstance(await raw.hear(), Pong)


async def test_a_cancelled_request_is_answered_once(path, space):
    """And its id may be used again at once: the answer is the new request's."""
    digests = b"".join(chunk_digests(space, prompt(1, 2)))
    async with open_service(options(), path) as service, raw_client(path) as raw:
        await raw.opens(space)
        await raw.say(Reserve(1, 0, b"", digests, 60.0))
        await raw.hear()
        await raw.say(Find(2, 0, digests, 60.0, wait=60.0), Ping(3))
        assert isinstance(await raw.hear(), Pong)
        await raw.say(Cancel(4, 2), Find(2, 0, digests, 60.0), Ping(5))
        answers = [await raw.hear() for _ in range(4)]
        await raw.say(Ping(6))

        kinds = [(type(answer), answer.id) for answer in answers]
        assert kinds == [(Failed, 2), (Done, 4), (Pong, 5), (Found, 2)]
        assert (await raw.hear()).id == 6
        assert service.keeper.ledger.leases == 0


async def test_what_is_granted_in_the_turn_of_a_cancel_is_given_back(path, space):
    """The chunk that was waited for came, and the request was cancelled before it was answered."""
    digests = b"".join(chunk_digests(space, prompt(1, 2)))
    async with open_service(options(), path) as service, raw_client(path) as raw:
        await raw.opens(space)
        await raw.say(Reserve(1, 0, b"", digests, 60.0))
        reserved = await raw.hear()
        await raw.say(Find(2, 0, digests, 60.0, wait=60.0), Ping(3))
        await raw.hear()
        await anyio.wait_all_tasks_blocked()
        (connection,) = service._connections
        service.keeper.commit(connection.owner, reserved.reservation, [0, 0])
        connection._take(Cancel(4, 2))
        answers = [await raw.hear() for _ in range(2)]

        assert [(type(answer), answer.id) for answer in answers] == [(Failed, 2), (Done, 4)]
        assert service.keeper.ledger.leases == 0


async def test_an_id_in_flight_ends_the_connection(path, space):
    """None could tell which of the two is answered."""
    digests = b"".join(chunk_digests(space, prompt(1, 2)))
    async with open_service(options(), path) as service, raw_client(path) as raw:
        await raw.opens(space)
        await raw.say(Reserve(1, 0, b"", digests, 60.0))
        await raw.hear()
        await raw.say(*[Find(2, 0, digests, 60.0, wait=60.0)] * 2)

        assert await raw.hears_the_end()
        assert service.statistics().protocol_errors == 1


async def test_unknown_names_and_odd_sizes_are_answers(path, space):
    """And no reason to end a connection."""
    async with open_service(options(), path), raw_client(path) as raw:
        await raw.say(Find(1, 5, b"d" * 16, 60.0), Release(2, 77))
        answers = sorted([await raw.hear(), await raw.hear()], key=lambda answer: answer.id)
        huge = type("Huge", (), {"digest": b"h" * 16, "chunk_bytes": 1 << 40})
        await raw.opens(huge, 1)
        await raw.say(Find(3, 1, b"d" * 16, 60.0))

        assert (answers[0].code, type(answers[1])) == ("unknown", Done)
        assert (await raw.hear()).reason == "size"


async def test_a_descriptor_that_comes_over_a_socket_is_not_inherited():
    """Not even by a program that is started in that moment."""
    one, other = (UnixStream(raw) for raw in socket.socketpair(socket.AF_UNIX))
    read, write = os.pipe2(os.O_CLOEXEC)
    await one.send(b"x", [read, write])
    data, descriptors = await other.receive_descriptors(10)
    inherited = [os.get_inheritable(descriptor) for descriptor in descriptors]
    for descriptor in (read, write, *descriptors):
        os.close(descriptor)
    one.close()
    other.close()

    assert (data, inherited) == (b"x", [False, False])


# --- who may connect ---


async def test_the_socket_is_its_owners_only(path):
    """And gone when the service is."""
    async with open_service(options(), path):
        mode = stat.S_IMODE(path.stat().st_mode)

    assert mode == 0o600
    assert list(path.parent.iterdir()) == []


async def test_a_second_service_is_refused(path):
    """It says that another one listens there."""
    async with open_service(options(), path), connect(path) as store:
        with pytest.raises(KvError, match="another service listens"):
            async with open_service(options(), path):
                pass

        assert await store.ping() is not None


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777], ids=oct)
async def test_a_folder_that_others_can_write_is_refused(path, mode):
    """By the service and by clients: a socket of another user could be there."""
    path.parent.chmod(mode)
    for opening in (open_service(options(), path), connect(path)):
        with pytest.raises(KvError, match="other users can write"):
            async with opening:
                pass


async def test_what_is_no_socket_is_not_removed(path):
    """A path that was mistyped."""
    path.write_text("precious")
    with pytest.raises(KvError, match="no socket"):
        async with open_service(options(), path):
            pass

    assert path.read_text() == "precious"
    assert list(path.parent.iterdir()) == [path]


async def test_a_link_at_the_place_is_refused_and_nothing_is_left_beside_it(path):
    """Wherever it leads to."""
    path.symlink_to("elsewhere")
    with pytest.raises(KvError, match="no socket"):
        async with open_service(options(), path):
            pass

    assert list(path.parent.iterdir()) == [path]


async def test_a_path_that_is_too_long_is_refused(path):
    """The kernel would cut it, or say that it is invalid."""
    with pytest.raises(KvError, match="too long"):
        async with open_service(options(), path.parent / ("x" * 100)):
            pass


async def test_another_user_is_refused(path, monkeypatch):
    """Though it could open the socket."""
    async with open_service(options(), path) as service:
        peer_of = peer_module.peer_of

        def foreign(raw):
            peer = peer_of(raw)
            peer.uid = 12345
            return peer

        monkeypatch.setattr(service_module, "peer_of", foreign)
        async with connect(path) as store:
            assert not store.statistics().connected
        assert service.statistics().refused_clients >= 1


async def test_a_service_of_another_user_is_refused(path, monkeypatch):
    """It could serve any bytes."""
    async with open_service(options(), path):
        monkeypatch.setattr(connector_module.Link, "peer_uid", 12345)
        with pytest.raises(KvError, match="user 12345"):
            async with connect(path):
                pass


async def test_another_version_is_refused_with_a_reason(path):
    """And not understood by half."""
    async with open_service(options(), path), raw_client(path, greets=False) as raw:
        await raw.say(Hello(VERSION + 1))
        answer = await raw.hear()

        assert (answer.code, await raw.hears_the_end()) == ("version", True)
        assert str(VERSION) in answer.message


def test_the_default_place_is_the_users_own(monkeypatch):
    """The runtime directory if there is one, else a folder with the user's number."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    first = str(default_socket())
    monkeypatch.delenv("XDG_RUNTIME_DIR")

    assert first == "/run/user/7/ajit/kv.sock"
    assert str(os.getuid()) in str(default_socket())


def test_a_place_that_is_given_up_can_be_claimed_again(path):
    """Also by the same process."""
    for _ in range(2):
        claimed = claim(path)
        claimed.give_up()

    assert not path.exists()


def test_only_one_has_a_place_though_its_lock_is_removed(path):
    """Whoever opened the lock's file before it was removed has locked nothing."""
    owners, most, claims = set(), [], []

    def claim_often(number):
        for _ in range(300):
            try:
                claimed = claim(path)
            except KvError:
                continue
            owners.add(number)
            most.append(len(owners))
            claims.append(number)
            owners.discard(number)
            claimed.give_up()

    threads = [threading.Thread(target=claim_often, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(claims) > 10
    assert set(most) == {1}
    assert list(path.parent.iterdir()) == []


def test_a_lock_that_was_removed_after_it_was_opened_is_taken_anew(path, monkeypatch):
    """The one who removed it had it: between open and lock."""
    first = claim(path)
    opened = os.open

    def open_late(*args, **kwargs):
        found = opened(*args, **kwargs)
        if first.listener.fileno() >= 0:
            first.give_up()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_late)
        second = claim(path)
    with pytest.raises(KvError, match="another service listens"):
        claim(path)
    second.give_up()


def test_a_service_that_is_ending_is_waited_for(path, monkeypatch):
    """A killed process closes its socket before its lock: the next one need not fail for that."""
    first = claim(path)
    first.listener.close()
    ended = threading.Timer(0.2, first.give_up)
    ended.start()
    second = claim(path)
    ended.join()
    with pytest.raises(KvError, match="another service listens"):
        claim(path)
    second.give_up()


# --- what a foreign service may do to a client ---


ANSWERS = {
    "garbage": b"\xff\xff\xff\xff",
    "no welcome": framed(encode(Pong(0, b"b" * 16, 0.0))),
    "a welcome without a page": framed(encode(Welcome(VERSION, b"b" * 16, b"t" * 16, 4096))),
    "the end": b"",
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_service_that_is_none_is_not_there(path, space, name):
    """The client misses, and goes on trying."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve():
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(ANSWERS[name])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        async with connect(path) as store:
            found = await read_prompt(store, space, chunk_digests(space, prompt(1, 2)))
            await anyio.to_thread.run_sync(thread.join)

            assert found == 0
            assert store.statistics().connections == 0
    finally:
        thread.join()
        listener.close()


async def test_an_answer_to_nothing_ends_the_link(path):
    """A service that is out of step is not believed."""
    async with open_service(options(), path) as service, connect(path) as store:
        for connection in service._connections:
            connection._put(Refused(10**9, "busy"))
        await until(lambda: store.statistics().connections == 2)

        assert await store.ping() is not None
        assert store.statistics().problem == "ProtocolError: an answer to nothing"


async def test_a_client_without_descriptors_misses_and_says_why(path, space, monkeypatch):
    """A slab that it cannot map ends the connection; what it has stays usable."""
    digests = chunk_digests(space, prompt(1, 2))

    def refused(descriptor, size_bytes):
        os.close(descriptor)
        raise SlabError(24, "Too many open files")

    async with open_service(options(), path), connect(path, timeout=60) as store:
        with monkeypatch.context() as patch:
            patch.setattr(Slab, "map", refused)
            stored = await store_prompt(store, space, digests)
            await until(lambda: "Too many open files" in store.statistics().problem)
        await store.wait_connected()

        assert stored == 0
        await until(lambda: store.statistics().connected)
        assert await store_prompt(store, space, digests) == 2


# --- health ---


async def test_health_is_read_without_a_message(path, space):
    """By any process that has the page, and never written by one."""
    async with open_service(options(), path) as service, connect(path) as store:
        await store_prompt(store, space, chunk_digests(space, prompt(1, 2)))
        async with store.lease(space, prompt(1, 2)):
            beat = store.health().beat
            await until(lambda: store.health().beat > beat + 1)
            health = store.health()
        with pytest.raises(OSError, match="ermi"):
            os.pwrite(service.page.descriptor, b"x", 0)
        reader = HealthReader(os.dup(service.page.descriptor))
        again = reader.read()
        reader.close()

        assert health.boot == again.boot == service.boot
        assert (health.used_bytes, health.clients, health.leases) == (2 * CHUNK_BYTES, 1, 1)
        assert health.silent_seconds < LONG_SECONDS


async def test_statistics_of_the_service_are_flat_and_complete(path, space):
    """What the books count, and what the service does."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_service(options(), path) as service, connect(path) as store:
        await store_prompt(store, space, digests)
        await read_prompt(store, space, digests)
        values = await store.service_statistics()

        assert values["chunks_stored"] == values["chunks_found"] == 2
        assert values["clients"] == 1
        assert values["boot"] == service.boot.hex()
        assert len(repr(service.statistics())) < 200
        assert "connected" in repr(store)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.binary(max_size=200) | st.binary(max_size=60).map(framed), max_size=6))
async def test_random_bytes_harm_no_other_client(path, space, pieces):
    """Whatever they are: the service answers, or ends that connection."""
    async with open_service(options(), path) as service, connect(path) as store:
        async with raw_client(path) as raw:
            for piece in pieces:
                try:
                    await raw.stream.send(piece or b"x")
                except OSError:
                    break
        begun = time.monotonic()

        assert await store.ping() is not None
        assert time.monotonic() - begun < LONG_SECONDS
        assert service.keeper.ledger.arena.used_bytes == 0
