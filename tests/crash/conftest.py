"""Shared by the crash tests: the processes, and a probe whether any can be traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.processes import Zygote
from tests.crash.strace import why_impossible
from tests.crash.trials import Trials

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make crash` tries every fault at every call, `make test` as many as it has time for."""
    parser.addoption(
        "--all-faults", action="store_true", help="crash tests: every fault at every system call"
    )


@pytest.fixture(scope="session")
def all_faults(request: pytest.FixtureRequest) -> bool:
    """Whether every fault is to happen at every call."""
    # The option is not there when pytest was started for the whole project.
    return bool(request.config.getoption("--all-faults", default=False))


@pytest.fixture(scope="session")
def strace() -> None:
    """Skip where nothing can be traced."""
    if reason := why_impossible():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def trials(strace: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """Run trials, in folders of this session."""
    folder: Path = tmp_path_factory.mktemp("crash")
    with Zygote(folder) as zygote:
        yield Trials(zygote, folder)
