"""Replay: the lines of a record, made ready again at the next start.

A line is made ready by who knows its kind: specs here, others by what an adapter has registered
(`register_kind`). One that leads to nothing any more is reported, and is no failure: the record is
of yesterday, and today's program may have other kernels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ajit._core.build_form import BUILD_KIND, KEPT_KIND, build_of
from ajit._core.record import Record
from ajit._core.record_seal import objection_to
from ajit._core.spec import validate_arch
from ajit._core.spec_form import SPEC_KIND, spec_of
from ajit._runtime.family_work import KEY_KIND, key_replayer
from ajit._runtime.kept import replay_kept
from ajit._runtime.ranks import START_SECONDS, Ranks
from ajit._runtime.record_files import read_record
from ajit._runtime.work import Item, Listing, Ready, Unresolved, Work, item_of_spec
from ajit._system.guarded_calls import NoAnswer
from ajit.errors import RecordError, SpecError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ajit._core.record import Use
    from ajit._runtime.kernels import Kernels
    from ajit._runtime.work import Replayer

__all__ = ["Replay", "register_kind", "replay"]

READ_SECONDS = 60.0
"""How long it may take to read a record."""

PathLike: TypeAlias = "str | os.PathLike[str]"


_replayers: dict[str, Replayer] = {}


def register_kind(kind: str, replayer: Replayer) -> None:
    """Let lines of a kind be replayed. For adapters; the last one that is registered counts."""
    _replayers[kind] = replayer


def replay(
    path: PathLike | Sequence[PathLike],
    *,
    arch: str | None = None,
    families: Iterable[Any] = (),
    ranks: int = 1,
    rank: int = 0,
    group: str = "",
    start_seconds: float = START_SECONDS,
) -> Replay:
    """Name the record of earlier starts, to have its kernels made ready by `Runtime.warmup`.

    Reads nothing yet. A record that does not exist is that of a first start: nothing is to be done.

    Args:
        path: The record, or several: what the setting ``record`` names, or a merged file.
        arch: Only lines of this arch, compiled for it; None means the device's, or without a device
            each line's own. Where no line is of that arch, those of the others are taken for it.
        families: Whose keys may be in the record, if these were warmed: anything with ``dispatch``,
            ``get_warmup_keys`` and ``compile`` (what was used of ajit's own families needs none).
        ranks: How many processes warm up together, each of them a share; the same in all of them.
        rank: Which of them this is, from 0 on.
        group: What tells them from another server that uses the same cache and record, such as a
            job's id; the same in all of them.
        start_seconds: How long a rank may take to be seen for the first time.

    Raises:
        UsageError: There is no such rank, or something is no family.
        UnknownArch: The arch has not the form of one.
    """
    paths = [path] if isinstance(path, (str, os.PathLike)) else path
    try:
        absolute = tuple(Path(each).expanduser().absolute() for each in paths)
    except TypeError:
        raise UsageError(f"replay takes the path of a record, got {path!r:.80}") from None
    if arch is not None:
        validate_arch(arch)
    which = Ranks(ranks, rank, group, start_seconds)
    return Replay(absolute, arch, which, key_replayer(families))


@dataclass(frozen=True, slots=True)
class Replay(Work):
    """A record to be replayed. Get it from `ajit.replay`.

    Attributes:
        paths: Where the record is.
        arch: Of which arch.
        ranks: Which rank of how many replays it.
    """

    paths: tuple[Path, ...]
    arch: str | None
    ranks: Ranks
    _of_keys: Replayer = field(repr=False)

    @property
    def scope(self) -> str:
        """The record."""
        return os.pathsep.join(map(str, self.paths))

    async def listing(self, kernels: Kernels) -> Listing:
        """Read the record, and say what its lines come to here.

        Raises:
            RecordError: It cannot be read; nothing was started.
        """
        unsafe = kernels.services.settings.allow_unsafe_cache
        read = partial(_read, self.paths, allow_unsafe=unsafe)
        try:
            record = await kernels.services.in_thread(read, seconds=READ_SECONDS)
        except NoAnswer:
            reason = f"it could not be read in {READ_SECONDS:.0f} s"
            raise RecordError(path=self.scope, reason=reason) from None
        replayers = {**_replayers, KEY_KIND: self._of_keys}
        return _listed(record, kernels, self.arch, replayers)


def _read(paths: Sequence[Path], *, allow_unsafe: bool) -> Record:
    record = Record()
    for path in paths:
        try:
            read_record(path, allow_unsafe=allow_unsafe, record=record)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise RecordError(path=str(path), reason=exc.strerror or str(exc)) from exc
    return record


def _listed(
    record: Record, kernels: Kernels, arch: str | None, replayers: Mapping[str, Replayer]
) -> Listing:
    uses = record.finished()
    target = arch or kernels.arch
    of_target = [use for use in uses if use.arch == target]
    # What was recorded without an arch is for any.
    chosen = [use for use in uses if use.arch in ("", target)] if target and of_target else uses
    items: list[Item] = []
    unresolved: list[Unresolved] = []
    for use in chosen:
        try:
            items += _items(use, record, kernels, target, replayers)
        except SpecError as exc:
            unresolved.append(Unresolved(use.name, use.kind, str(exc)))
    if record.damaged:
        reason = f"{record.damaged} damaged lines were passed over"
        unresolved.append(Unresolved("", "", reason))
    return Listing(items, unresolved, len(uses) - len(chosen))


def _items(
    use: Use, record: Record, kernels: Kernels, target: str, replayers: Mapping[str, Replayer]
) -> list[Item]:
    """The item of a line; none if it can only be for another arch.

    Raises:
        SpecError: It leads to nothing.
    """
    if use.kind == SPEC_KIND:
        spec = spec_of(use.build, record.texts)
        if target and spec.arch not in (None, target):
            return []
        arch = target or use.arch
        return [item_of_spec(spec, kernels, arch=arch or None, kind=use.kind)]
    if use.kind == BUILD_KIND:
        if target and use.arch not in ("", target):
            return []
        return [_item_of_build(use, record, kernels)]
    if use.kind == KEPT_KIND:
        return [_item_of_kept(use, record, kernels)]
    replayer = replayers.get(use.kind)
    if replayer is None:
        raise SpecError(f"nothing here makes kernels of kind {use.kind!r} ready")
    make: Any = partial(replayer, kernels, use, record.texts)
    return [Item(use.id, use.name, make, lambda: use.id, None, use.kind)]


def _item_of_kept(use: Use, record: Record, kernels: Kernels) -> Item:
    """The item of what a peer has made; its recipe is followed only if nothing is against it."""
    doubtful = record.is_doubtful(use)
    objection = objection_to(use, kernels.services.trust, doubtful=doubtful)

    async def make(on_wait: Callable[[], None]) -> Ready:
        del on_wait  # it is the peer's thread that waits
        return await replay_kept(kernels, use, objection)

    return Item(use.id, use.name, make, lambda: use.id, None, use.kind)


def _item_of_build(use: Use, record: Record, kernels: Kernels) -> Item:
    """The item of a build.

    Raises:
        SpecError: It is none, or no key that is trusted vouches for it. Nothing of it was run.
    """
    doubtful = record.is_doubtful(use)
    if reason := objection_to(use, kernels.services.trust, doubtful=doubtful):
        raise SpecError(reason)
    build = build_of(use.build, record.texts)

    async def make(on_wait: Callable[[], None]) -> Ready:
        return await kernels.builds.warm(build, on_wait)

    return Item(("build", build), use.name, make, lambda: use.id, None, use.kind)
