"""What an attacker who can write to a cache, or is this user, could leave there to be shown."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import LeaseTable
from ajit._runtime.board_form import (
    BOARD_BYTES,
    CompileView,
    DeviceView,
    ErrorView,
    RuntimeView,
    WaitView,
    board_head,
    encode_post,
)
from ajit._runtime.board_places import board_name, folders_of
from tests.cache.artifacts import a_key, an_artifact, forged

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EVIL", "hostile_place", "write_board"]

EVIL = (
    '"><script>document.title="script ran"</script>'
    "<img src=x onerror=\"document.title='onerror ran'\">"
    "<svg onload=\"document.title='onload ran'\">javascript:alert(1)"
    "\u202egpj.exe\x1b]0;title\x07\n\nevent: snapshot\ndata: {}\n\n\u2028${7*7}</textarea>&lt;"
)
"""Markup, a mark that turns text round, an escape sequence, and the end of an event."""


@contextmanager
def hostile_place(cache_dir: Path, boards: Path) -> Iterator[None]:
    """Fill a cache and a folder of boards with hostile texts, while the block runs."""
    directory = open_cache_directory(cache_dir)
    key = a_key("evil")
    _write(cache_dir / "entries" / key[:2] / f"{key}.ajit", _entry(key))
    large = a_key("large")
    _write(cache_dir / "entries" / large[:2] / f"{large}.ajit", _entry(large, 1_000_000))
    bad = a_key("bad")
    _write(cache_dir / "entries" / bad[:2] / f"{bad}.ajit", EVIL.encode() * 1000)
    _write(cache_dir / "history" / f"evil-{'0' * 16}.jsonl", _history(key))
    write_board(boards, cache_dir)
    with LeaseTable(directory).try_acquire(key, EVIL, name=EVIL):
        yield


def write_board(boards: Path, cache_dir: Path) -> Path:
    """Write a hostile board of this process."""
    view = RuntimeView(
        pid=2**63,
        host=EVIL,
        program=EVIL * 3,
        version=EVIL,
        cache_dir=EVIL,
        cache_problem=EVIL,
        held_back=EVIL,
        queued=2**60,
        opened_unix_seconds=1e300,
        saved_seconds=1e308,
        from_memory=2**64 - 1,
        device=DeviceView(name=EVIL, stuck=True, operation=EVIL, since_seconds=1e308),
        compiles=(CompileView(name=EVIL, key=EVIL, phase=EVIL, compiler=EVIL, reason=EVIL),),
        waits=(WaitView(name=EVIL, key=EVIL, host=EVIL, pid=7, phase=EVIL, waited_seconds=1e300),),
        recent_errors=(ErrorView(unix_seconds=1e300, kind=EVIL, name=EVIL, key="", text=EVIL),),
    )
    place, data = encode_post(view, 1, time.monotonic_ns())
    board = bytearray(BOARD_BYTES)
    board[: len(board_head())] = board_head()
    board[place : place + len(data)] = data
    folder = Path(folders_of(str(boards))[0])
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / board_name(99, str(cache_dir))
    path.write_bytes(board)
    return path


def _entry(key: str, length: int = 3000) -> bytes:
    """An entry whose digest is good, with a long name."""
    name = EVIL + "x" * length
    return forged(an_artifact(key), name=name, arch=EVIL, compiler=EVIL)


def _history(key: str) -> bytes:
    """A compile that has failed, as long as a line may be, and what is not one line of JSON."""
    texts = (
        "name",
        "entry",
        "compiler",
        "arch",
        "reason",
        "host",
        "program",
        "error",
        "error_type",
    )
    facts = {"id": "evil", "unix_seconds": time.time(), "outcome": "failed", "key": key}
    line = facts | dict.fromkeys(texts, EVIL) | {"log": f"error: {EVIL}\n" * 500}
    return json.dumps(line).encode() + b"\n" + EVIL.encode()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
