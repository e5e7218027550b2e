"""Results that their callers make themselves, by a peer's own key: builds, and their lines.

What Triton, cuda.core and others compile in the process that asks for it cannot be made again from
a line of a record: only the peer has what it is made of. So the line has the key, and its replay
looks for what the cache or a layer has, and makes the view of it on this node. What is not there is
reported, and no failure: the peer makes it when it is asked for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from ajit._core.build import Build, Call
from ajit._runtime.recorder import note_use
from ajit.errors import SpecError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ajit._core.record import Use
    from ajit._runtime.kernels import Kernels
    from ajit._runtime.work import Ready

__all__ = ["KEPT_KIND", "kept_build", "note_kept", "replay_kept"]

KEPT_KIND = "kept"

_FUNCTION = re.compile(r"[\w.]+:[\w.]+", re.ASCII)


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a line has it."""

    function: str
    label: str
    version: str
    key: str


def kept_build(function: str, label: str, version: str, key: str) -> Build:
    """Return the build that stands for a compile of a peer.

    Args:
        function: What compiles, as ``module:function``. It is never called.
        label: For logs.
        version: Distribution and version.
        key: The peer's own key, that the result depends on alone.
    """
    parts = [("peer", version), ("peer key", key)]
    return Build(label, Call(function), ["**"], key_parts=parts, extra_digest="the peer's own key")


def note_kept(peer: str, arch: str, build: Build, wait_seconds: float) -> None:
    """Note in the records of this process that a peer has used what it has made. Any thread.

    Args:
        peer: Whose it is.
        arch: What it is for; "" if that is not known.
        build: From `kept_build`.
        wait_seconds: How long it was waited for.
    """
    (_, version), (_, key) = build.key_parts
    line = _Line(build.run.program, build.name, version, key)
    data = msgspec.json.encode(line)
    note_use(KEPT_KIND, peer, build.name, arch, data, wait_seconds=wait_seconds)


async def replay_kept(
    kernels: Kernels, use: Use, texts: Mapping[str, str], on_wait: Callable[[], None]
) -> Ready:
    """Make the view of what a peer has made. See `Replayer`."""
    del texts, on_wait  # nothing is waited for
    try:
        line = msgspec.json.decode(use.build, type=_Line)
        if not _FUNCTION.fullmatch(line.function):
            raise SpecError(f"{line.function!r} names no function")
        build = kept_build(line.function, line.label, line.version, line.key)
    except (msgspec.DecodeError, UsageError) as exc:
        raise SpecError(f"the line is damaged: {exc}") from exc
    ready = await kernels.builds.warm_kept(build)
    if ready is None:
        raise SpecError(f"the cache has it no more, and {use.peer} alone can make it")
    return ready
