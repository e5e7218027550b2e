"""Processes of a peer: several that begin to compile one kernel at the same moment."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from tests.runtime.processes import Peer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PeerProcess", "crowd"]


class PeerProcess(Peer):
    """One process of a peer (see ``peer_main.py``)."""

    hear_seconds = 240.0

    def __init__(
        self,
        peer: str,
        settings: dict[str, Any] | None,
        folder: str,
        *,
        case: str = "good",
        backend: str = "asyncio",
    ) -> None:
        order = {"peer": peer, "case": case, "settings": settings, "folder": folder}
        self._start("tests.integrations.peer_main", {**order, "backend": backend})


@contextlib.contextmanager
def crowd(
    count: int, peer: str, settings: dict[str, Any] | None, folder: str, case: str = "good"
) -> Iterator[list[PeerProcess]]:
    """Start processes that are all ready; in the end those that still run are killed."""
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                PeerProcess(
                    peer, settings, folder, case=case, backend=("asyncio", "trio")[number % 2]
                )
            )
            for number in range(count)
        ]
        for process in started:
            process.hear("ready")
        yield started
