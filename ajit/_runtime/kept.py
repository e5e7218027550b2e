"""Results that their callers make themselves, by a peer's own key: builds, and their lines.

What Triton, cuda.core and others compile in the process that asks for it is made by the peer alone.
So the line has the key, and its replay looks for what the cache or a layer has, and makes the view
of it on this node. What is not there is reported, and no failure: the peer makes it when it is
asked for. Some have a recipe as well, a text of which the peer's adapter makes it again, if it is
there. It names code to be imported, so a line that others may have written is not followed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from ajit._core.build import Build, Call
from ajit._core.build_form import KEPT_KIND
from ajit._runtime.recorder import is_recording, note_use
from ajit.errors import SpecError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit._core.record import Use
    from ajit._runtime.kernels import Kernels
    from ajit._runtime.work import Ready

__all__ = ["kept_build", "note_kept", "register_remaker", "replay_kept"]

_remakers: dict[str, Callable[[str], Awaitable[Build]]] = {}

_FUNCTION = re.compile(r"[\w.]+:[\w.]+", re.ASCII)


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a line has it."""

    function: str
    label: str
    version: str
    key: str
    recipe: str = ""


def register_remaker(peer: str, remake: Callable[[str], Awaitable[Build]]) -> Callable[[], None]:
    """Let what a peer has made be made again of its recipe; returns how to undo that.

    Args:
        peer: Whose recipes.
        remake: Makes what a recipe says, or finds it, and returns its `kept_build`; `SpecError` if
            it leads to nothing any more.
    """
    _remakers[peer] = remake

    def undo() -> None:
        if _remakers.get(peer) is remake:
            del _remakers[peer]

    return undo


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


def note_kept(
    peer: str,
    arch: str,
    build: Build,
    wait_seconds: float,
    recipe: Callable[[], str] = str,
) -> None:
    """Note in the records of this process that a peer has used what it has made. Any thread.

    Args:
        peer: Whose it is.
        arch: What it is for; "" if that is not known.
        build: From `kept_build`.
        wait_seconds: How long it was waited for.
        recipe: Returns the text of which `register_remaker`'s makes it again; "" if there is none.
    """
    if not is_recording():
        return
    (_, version), (_, key) = build.key_parts
    line = _Line(build.run.program, build.name, version, key, recipe())
    data = msgspec.json.encode(line)
    note_use(KEPT_KIND, peer, build.name, arch, data, wait_seconds=wait_seconds)


async def replay_kept(kernels: Kernels, use: Use, objection: str = "") -> Ready:
    """Make the view of what a peer has made, or have it made again.

    Args:
        kernels: Of the runtime that warms up.
        use: The line.
        objection: Why its recipe must not be followed, or "".

    Raises:
        SpecError: The line is damaged, or leads to nothing any more.
    """
    try:
        line = msgspec.json.decode(use.build, type=_Line)
        if not _FUNCTION.fullmatch(line.function):
            raise SpecError(f"{line.function!r} names no function")
        build = kept_build(line.function, line.label, line.version, line.key)
    except (msgspec.DecodeError, UsageError) as exc:
        raise SpecError(f"the line is damaged: {exc}") from exc
    ready = await kernels.builds.warm_kept(build)
    if ready is None:
        made = await _made_again(use.peer, line.recipe, objection)
        ready = await kernels.builds.warm_kept(made)
    if ready is None:
        raise SpecError("it was made again, and is not in the cache")
    return ready


async def _made_again(peer: str, recipe: str, objection: str) -> Build:
    gone = "the cache has it no more"
    if not recipe:
        raise SpecError(f"{gone}, and {peer} alone can make it")
    if objection:
        raise SpecError(f"{gone}, and is not made again: {objection}")
    remake = _remakers.get(peer)
    if remake is None:
        raise SpecError(f"{gone}; install the adapter of {peer} before the warm-up to have it made")
    return await remake(recipe)
