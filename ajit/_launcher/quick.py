r"""The way of a hit: the same command, in the same place, with files that are what they were.

A *memo* is kept for each command line with its working directory and variables: the files that its
look-up went through, what ``stat`` said of them, and the entry that it led to. Where ``stat`` says
the same, the look-up would end there again. So neither the command line is understood nor a reading
list decoded, and nothing is imported but what an interpreter has at hand: importing the other way
takes longer than the rest of a hit. Whatever is unusual here (a missing or strange file, a cache
that others may write to, seals that have to be checked) is left to the other way.

A memo vouches for no more than its maker's look at files of this machine, so it lies in the cache
under this machine's name, and counts only in a directory that no other user can write to.

Layout of a memo: magic, SHA-256 of all that follows; the lengths of its seven parts; the parts::

    the key of the entry, in hex
    outputs: name NUL path NUL ...
    paths of files, each with NUL                         as `stat_files` takes them
    one FILE_STATE for each                               as it returns them
    directories, each with a NUL
    files that are read instead: path NUL digest NUL ...  they were written just before
    programs sought by name: name NUL path NUL ...        no path: there is none

The cache's files may be on a disk that hangs, so they are read in a thread that can be left.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
import time
from _thread import allocate_lock, start_new_thread
from typing import TYPE_CHECKING, TypeVar

from ajit._launcher.environment import logical_directory, mattering
from ajit._launcher.outputs import Section, replay, unpack
from ajit._launcher.tally import node_name, tally

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Memo", "decode", "encode", "memo_name", "quick_key", "quick_result"]

T = TypeVar("T")

_MAGIC = b"AJITMEM\1"
_LENGTHS = struct.Struct("<7Q")
_DIGEST_BYTES = 32
_START = len(_MAGIC) + _DIGEST_BYTES
_STATE_BYTES = 48

_ENTRY = struct.Struct("<8sIIQ")
_ENTRY_MAGIC = b"AJITENT\0"
_ENTRY_FORMAT = 3
"""Those of `ajit._core.entry`, which is not imported here; a test compares them."""

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

PATIENCE_SECONDS = 2.0
"""How long the cache may take. Pretty arbitrary: then the other way waits for its own patience."""

TOUCH_SECONDS = 3600.0
"""As in `ajit._cache.entries.touch`."""

_OTHER_WAY = (
    *("AJIT_TRUST", "AJIT_HMAC_KEY", "AJIT_HMAC_KEY_FILE", "AJIT_PUBLIC_KEY_FILES"),
    *("AJIT_SIGNING_KEY_FILE", "AJIT_SHARED_GROUP", "AJIT_ALLOW_UNSAFE_CACHE"),
)
"""Settings by which a cache is trusted in another way than by who can write to it."""


class _No(Exception):
    """Not this way."""


class Memo:
    """What a look-up went through, and where it ended.

    Attributes:
        key: The hex key of the entry.
        outputs: Name and path of each file that it makes.
        paths: Files, each with a NUL behind it.
        states: What ``stat_files`` says of them.
        folders: Directories.
        read: Path and digest of files that are read.
        programs: Name and path of programs that were sought by their names; "" if there is none.
    """

    __slots__ = ("folders", "key", "outputs", "paths", "programs", "read", "states")

    def __init__(
        self,
        key: str,
        outputs: dict[str, str],
        paths: bytes,
        states: bytes,
        folders: list[str],
        read: dict[str, str],
        programs: dict[str, str],
    ) -> None:
        self.key, self.outputs, self.paths, self.states = key, outputs, paths, states
        self.folders, self.read, self.programs = folders, read, programs


def quick_key(compiler: str, arguments: list[str]) -> str:
    """Return what a memo is kept under: a digest of all that the command line stands in."""
    parts = (
        *("launcher 1", compiler, os.environ.get("PATH", ""), os.getcwd(), logical_directory()),
        *("variables", *mattering(compiler), "arguments", *arguments),
    )
    raw = [os.fsencode(part) for part in parts]
    return hashlib.sha256(b"".join(b"%d %s" % (len(part), part) for part in raw)).hexdigest()


def memo_name(key: str) -> str:
    """Return the relative name of a memo."""
    return f"launcher/{node_name()}/{key[:2]}/{key}"


def quick_result(cache: str, key: str) -> bool:
    """Replay a result, if there is one for this key and all that it depends on is what it was.

    Args:
        cache: Path of the cache directory.
        key: From `quick_key`.

    Returns:
        False if nothing was done.
    """
    if not cache or any(name in os.environ for name in _OTHER_WAY):
        return False
    try:
        memo, sections = _in_time(lambda: _found(cache, key))
        replay(sections, memo.outputs)
    except (_No, OSError, KeyError, ValueError, OverflowError, MemoryError, struct.error):
        return False
    try:
        _in_time(lambda: tally(cache, "hit"))
    except _No:
        pass  # it hangs only now: the result is there
    return True


def encode(memo: Memo) -> bytes:
    """Return the bytes of a memo."""
    parts = (
        memo.key.encode(),
        _joined(memo.outputs),
        memo.paths,
        memo.states,
        b"".join(os.fsencode(path) + b"\0" for path in memo.folders),
        _joined(memo.read),
        _joined(memo.programs),
    )
    body = _LENGTHS.pack(*map(len, parts)) + b"".join(parts)
    return _MAGIC + hashlib.sha256(body).digest() + body


def decode(data: bytes) -> Memo:
    """Return the memo that bytes hold.

    Raises:
        ValueError: They are none.
    """
    body = data[_START:]
    if data[: len(_MAGIC)] != _MAGIC or data[len(_MAGIC) : _START] != hashlib.sha256(body).digest():
        raise ValueError("no memo")
    parts, at = [], _LENGTHS.size
    for length in _LENGTHS.unpack_from(body):
        parts.append(body[at : at + length])
        at += length
    key, outputs, paths, states, folders, read, programs = parts
    if paths.count(b"\0") * _STATE_BYTES != len(states):
        raise ValueError("no memo")
    return Memo(
        key.decode(),
        _pairs(outputs),
        paths,
        states,
        _texts(folders),
        _pairs(read),
        _pairs(programs),
    )


def _found(cache: str, key: str) -> tuple[Memo, list[Section]]:
    """Read the memo, check what it depends on, and read the entry."""
    us = (os.geteuid(), 0)
    name = memo_name(key)
    for folder in ("", "launcher", os.path.dirname(name), "entries"):
        _check(os.stat(os.path.join(cache, folder)), us)
    memo = decode(_read(os.path.join(cache, name), us))
    if not _holds(memo):
        raise _No
    entry = os.path.join(cache, "entries", memo.key[:2], f"{memo.key}.ajit")
    _check(os.stat(os.path.dirname(entry)), us)
    return memo, _entry(_read(entry, us, touch=True), memo.key)


def _holds(memo: Memo) -> bool:
    if memo.paths and _stat_files(memo.paths, len(memo.states) // _STATE_BYTES) != memo.states:
        return False
    if not all(map(os.path.isdir, memo.folders)):
        return False
    for path, digest in memo.read.items():
        with open(path, "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != digest:
                return False
    return all((_on_path(name) or "") == path for name, path in memo.programs.items())


def _on_path(name: str) -> str | None:
    """As `ajit._compile.recorder.places.program_on_path`."""
    for directory in filter(None, os.environ.get("PATH", "").split(os.pathsep)):
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def _stat_files(paths: bytes, count: int) -> bytes:
    native = os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_gpu/native"
    )
    function = ctypes.CDLL(os.path.join(native, "libajit_files.so")).ajit_stat_files
    states = ctypes.create_string_buffer(_STATE_BYTES * count)
    function(ctypes.c_char_p(paths), ctypes.c_size_t(count), states)
    return states.raw


def _entry(data: bytes, key: str) -> list[Section]:
    """Verify an entry and return its outputs; `ajit._core.entry` describes it."""
    magic, version, manifest, total = _ENTRY.unpack_from(data)
    end = total - _DIGEST_BYTES
    if magic != _ENTRY_MAGIC or version != _ENTRY_FORMAT or not _ENTRY.size <= end <= len(data):
        raise _No
    view = memoryview(data)
    if hashlib.sha256(view[:end]).digest() != data[end:total]:
        raise _No
    return unpack(view[_ENTRY.size + manifest : end], key)


def _read(path: str, us: tuple[int, int], *, touch: bool = False) -> bytes:
    fd = os.open(path, _OPEN)
    try:
        status = os.fstat(fd)
        _check(status, us)
        if touch and abs(time.time() - status.st_mtime) > TOUCH_SECONDS:
            os.utime(fd)
        with open(fd, "rb", buffering=0, closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)


def _check(status: os.stat_result, us: tuple[int, int]) -> None:
    """Refuse what another user may have written."""
    if status.st_uid not in us or status.st_mode & 0o022:
        raise _No


def _in_time(function: Callable[[], T]) -> T:
    """Call a function in a thread, which is left when it takes too long."""
    done = allocate_lock()
    done.acquire()
    results: list[T | BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as exc:  # noqa: BLE001  # raised by the caller
            results.append(exc)
        done.release()

    start_new_thread(call, ())
    if not done.acquire(timeout=PATIENCE_SECONDS):
        raise _No
    result = results[0]
    if isinstance(result, BaseException):
        raise result
    return result


def _joined(pairs: dict[str, str]) -> bytes:
    return b"".join(os.fsencode(text) + b"\0" for pair in pairs.items() for text in pair)


def _texts(data: bytes) -> list[str]:
    return [os.fsdecode(text) for text in data.split(b"\0")[:-1]]


def _pairs(data: bytes) -> dict[str, str]:
    texts = _texts(data)
    return dict(zip(texts[::2], texts[1::2], strict=True))
