"""The keys of families as work for a warm-up: each once, shared by ranks, in parallel.

A key of ajit's own `Family` is a spec like any other. One of another provider is compiled by that
itself, in a daemon thread: some at a time, as many as there are compile slots, and no further one
while memory is short. Such a thread cannot be killed: a runtime that closes leaves it to itself.
Each rank compiles also what the others have compiled, last and as their caches have it by then: in
this process the provider must know it, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from ajit._runtime.family import Family, Provider
from ajit._runtime.ranks import START_SECONDS, Ranks
from ajit._runtime.recorder import note_use
from ajit._runtime.work import Item, Listing, Ready, Work, item_of_spec
from ajit._system.in_thread import run_in_thread
from ajit._system.limits import available_memory_bytes
from ajit.errors import AjitError, CompileError, SpecError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ajit._core.record import Use
    from ajit._runtime.kernels import Kernels
    from ajit._runtime.work import Replayer

__all__ = ["KEY_KIND", "FamilyWork", "families", "key_replayer"]

KEY_KIND = "key"
"""Of the lines of a record that are keys of providers."""

MEMORY_POLL_SECONDS = 0.1

Wanted = tuple["Family[Any] | Provider", "tuple[Any, ...] | None"]
"""A family, and its keys; None if the configuration says which."""


def families(
    members: Iterable[Any],
    *,
    config: Any = None,
    ranks: int = 1,
    rank: int = 0,
    group: str = "",
    start_seconds: float = START_SECONDS,
) -> FamilyWork:
    """Name the keys of families, to be made ready by `Runtime.warmup` or `ajit.ready`.

    Args:
        members: Families, and anything with ``dispatch``, ``get_warmup_keys`` and ``compile``; or
            pairs of one of these and its keys.
        config: What ``get_warmup_keys`` is called with, for those without keys; None: with nothing.
        ranks: How many processes warm up together, each of them a share; the same in all of them.
        rank: Which of them this is, from 0 on.
        group: As for `ajit.replay`.
        start_seconds: As for `ajit.replay`.

    Raises:
        UsageError: Something is no family, or is one without keys, or there is no such rank.
    """
    if isinstance(members, (Family, Provider)):
        raise UsageError(f"families takes a list of families; write [{_name(members)}]")
    wanted = tuple(_wanted(member) for member in members)
    return FamilyWork(wanted, config, Ranks(ranks, rank, group, start_seconds))


@dataclass(frozen=True, slots=True)
class FamilyWork(Work):
    """Keys of families to be made ready. Get it from `ajit.families`.

    Attributes:
        wanted: The families, and their keys.
        config: The configuration that says which, where there are none.
        ranks: Which rank of how many does it.
    """

    wanted: tuple[Wanted, ...]
    config: Any
    ranks: Ranks

    @property
    def scope(self) -> str:
        """The names of the families."""
        return "\0".join(sorted(_name(family) for family, _ in self.wanted))

    async def listing(self, kernels: Kernels) -> Listing:
        """Ask each family for its keys, in a thread.

        Raises:
            UsageError: A family has no keys to give.
        """
        keys = await kernels.services.in_thread(self._keys)
        threads = _Threads(kernels)
        return Listing([_item(family, key, kernels, threads) for family, key in keys])

    def _keys(self) -> list[tuple[Family[Any] | Provider, Any]]:
        return [
            (family, key)
            for family, keys in self.wanted
            for key in (self._asked(family) if keys is None else keys)
        ]

    def _asked(self, family: Family[Any] | Provider) -> Iterable[Any]:
        try:
            given = () if self.config is None else (self.config,)
            return list(family.get_warmup_keys(*given))
        except AjitError:
            raise
        except Exception as exc:
            asked = "without one: config is None" if self.config is None else "with config"
            raise UsageError(
                f"the family {_name(family)} does not say its keys for this configuration (it was "
                f"asked {asked}): {exc!r} (give ajit.families another config, or give a pair of it "
                f"and its keys)"
            ) from exc


class _Threads:
    """Runs the compiles of providers, some at a time, off the loop."""

    def __init__(self, kernels: Kernels) -> None:
        settings = kernels.services.settings
        self._limiter = anyio.CapacityLimiter(max(1, settings.compile_slots))
        self._estimate = settings.compile_memory_estimate_bytes
        self._lock = threading.Lock()
        self._running = 0

    async def compile(self, provider: Provider, name: str, key: Any) -> None:
        """Let a provider compile a key.

        Raises:
            CompileError: It raised something; the log has what.

        Cancelling leaves the thread to itself.
        """
        call = partial(self._compile, provider, key)
        try:
            await run_in_thread(call, limiter=self._limiter, abandon=True)
        except AjitError:
            raise
        except Exception as exc:  # the provider's own, whatever it is
            log = "".join(traceback.format_exception(exc))
            raise CompileError(name=name, key="", compiler=_name(provider), log=log) from exc

    def _compile(self, provider: Provider, key: Any) -> None:
        with self._lock:
            self._running += 1
        try:
            while self._is_short():
                time.sleep(MEMORY_POLL_SECONDS)
            provider.compile(key)
        finally:
            with self._lock:
                self._running -= 1

    def _is_short(self) -> bool:
        """Whether memory is short; one compile goes on all the same."""
        with self._lock:
            if self._running <= 1 or not self._estimate:
                return False
        available = available_memory_bytes()
        return available is not None and available < self._estimate


def _wanted(member: Any) -> Wanted:
    if isinstance(member, tuple) and len(member) == 2:
        family, keys = member
        if isinstance(keys, Iterable):
            return _checked(family), tuple(keys)
    family = _checked(member)
    if isinstance(family, Family) and not family.knows_keys:
        raise UsageError(
            f"the family {family.name!r} was made without keys=, so it cannot say which to make "
            f"ready: give a pair of it and its keys"
        )
    return family, None


def _checked(family: Any) -> Family[Any] | Provider:
    if isinstance(family, Family):
        return family
    if isinstance(family, type) or not isinstance(family, Provider):
        raise UsageError(
            f"a family is an ajit.Family, or has dispatch, get_warmup_keys and compile; "
            f"got {family!r:.80}"
        )
    return family


def _item(family: Family[Any] | Provider, key: Any, kernels: Kernels, threads: _Threads) -> Item:
    if isinstance(family, Family):
        return item_of_spec(family.spec(key), kernels)
    name, provider = f"{_name(family).rpartition('.')[2]} {_shown(key)}", family
    build = _build(provider, key)

    async def make(_: Callable[[], None]) -> Ready:
        begun = time.monotonic()
        await threads.compile(provider, name, key)
        waited = time.monotonic() - begun
        peer = _name(provider)
        note_use(KEY_KIND, peer, name, kernels.arch, build, wait_seconds=waited)
        return Ready("", "compiled")

    # Equal for all objects of a class: layers of one model register the same kernel many times.
    return Item((_name(family), key), name, make, hashlib.sha256(build).hexdigest)


def _name(family: Family[Any] | Provider) -> str:
    if isinstance(family, Family):
        return family.name
    return f"{type(family).__module__}.{type(family).__qualname__}"


def _shown(key: Any) -> str:
    if dataclasses.is_dataclass(key) and not isinstance(key, type):
        return " ".join(str(getattr(key, item.name)) for item in dataclasses.fields(key))
    return str(key)


def _build(provider: Provider, key: Any) -> bytes:
    """A key as a record has it: the same bytes in every process."""
    return msgspec.json.encode({"provider": _name(provider), "key": key}, enc_hook=str)


class _Build(msgspec.Struct, frozen=True):
    provider: str
    key: Any


_decoder = msgspec.json.Decoder(_Build)


def key_replayer(members: Iterable[Any]) -> Replayer:
    """Return what makes recorded keys of these providers ready again.

    Raises:
        UsageError: One is no family.
    """
    known = {_name(family): family for family in map(_checked, members)}

    async def replay_key(
        kernels: Kernels, use: Use, texts: Mapping[str, str], on_wait: Callable[[], None]
    ) -> Ready:
        del texts, on_wait
        try:
            build = _decoder.decode(use.build)
        except msgspec.DecodeError as exc:
            raise SpecError(f"the record's line is of no key: {exc}") from None
        provider = known.get(build.provider)
        if provider is None or isinstance(provider, Family):
            raise SpecError(f"there is no {build.provider} among the families of the replay")
        key = _converted(build, getattr(provider, "CompileKey", None))
        await _Threads(kernels).compile(provider, use.name, key)
        return Ready("", "compiled")

    return replay_key


def _converted(build: _Build, kind: object) -> Any:
    """Make a key of what a record has of it.

    Raises:
        SpecError: That cannot be done, as for keys that hold more than numbers and texts.
    """
    if not isinstance(kind, type):
        raise SpecError(f"{build.provider} has no class CompileKey to make a key of")
    try:
        return msgspec.convert(build.key, kind)
    except (msgspec.ValidationError, TypeError) as exc:
        raise SpecError(f"no key of {build.provider} can be made again: {exc}") from None
