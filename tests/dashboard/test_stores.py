"""KV stores on the page: those of the process, and the service of the machine."""

from __future__ import annotations

import subprocess
import sys

import anyio.to_thread
import pytest

from ajit import dashboard, kv
from ajit.dashboard.stores import service_rows
from tests.dashboard.test_app import settings  # noqa: F401  # a fixture
from tests.runtime.processes import PROJECT

MIB = 1024 * 1024


@pytest.mark.anyio
async def test_a_store_of_this_process_is_shown_while_it_is_watched(settings):  # noqa: F811
    """Under the name that it is given."""
    app = dashboard.asgi_app(settings=settings)
    async with kv.open_store(kv.StoreOptions(limit_bytes=64 * MIB)) as store:
        with app.watching(prefixes=store):
            [row] = (await anyio.to_thread.run_sync(app.feed.snapshot)).kv
        after = (await anyio.to_thread.run_sync(app.feed.snapshot)).kv

    assert ("prefixes", "quiet", 64 * MIB, 0) == (row.name, row.level, row.limit_bytes, row.chunks)
    assert () == after


def test_the_service_of_the_machine_is_asked(tmp_path):
    """Whether it answers, how full it is, and whether it has gone."""
    socket = tmp_path / "kv" / "kv.sock"
    socket.parent.mkdir(mode=0o700)
    before = service_rows(socket)
    command = [sys.executable, "-m", "ajit", "kv", "serve", "--limit", "64MiB", "--socket", socket]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert "serving" in service.stdout.readline()
            [row] = service_rows(socket)
        finally:
            service.kill()
    service.wait()
    [gone] = service_rows(socket)

    assert () == before
    assert ("quiet", 64 * MIB) == (row.level, row.limit_bytes)
    assert row.text.startswith("answers")
    assert "bad" == gone.level
