"""The incidents' tests use the runtime's compiler under control, and its processes."""

from __future__ import annotations

import contextlib

import pytest

from tests.runtime.conftest import (  # noqa: F401  # fixtures are used by their names
    cache_dir,
    compiled_answers,
    compiler,
    lock_peer,
    options,
)
from tests.runtime.processes import Peer


@pytest.fixture
def anyio_backend():
    """One event loop: none of these incidents is about it, and each layer tests its own on all."""
    return "asyncio"


@pytest.fixture
def start(options):  # noqa: F811
    """Start processes on the cache; all of them have ended when the test has."""
    with contextlib.ExitStack() as stack:

        def start(count, **changes):
            backends = ("asyncio", "trio")
            return [
                stack.enter_context(Peer({**options, **changes}, backends[number % 2]))
                for number in range(count)
            ]

        yield start
