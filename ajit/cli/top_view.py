"""What ``ajit top`` shows, in 80 columns: the runtimes, their compiles, and who waits for whom."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ajit._cache.entries.history import short_reason
from ajit.cli.drawing import Stack, Styled, table
from ajit.cli.output import count, format_age

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ajit.cli.drawing import Drawn, Table
    from ajit.instrumentation import DeviceView, RuntimeView, WaitView

__all__ = ["SORTS", "Rates", "draw", "requests_of"]

MOST_ERRORS = 5
"""Shown of all runtimes."""

RECENT_SECONDS = 600.0
"""An error that is older is not shown."""

_Whose: TypeAlias = tuple[int, int, int, int]

_STYLES = {"running": "green", "late": "bold yellow", "stopped": "bold yellow", "dead": "bold red"}


def requests_of(view: RuntimeView) -> int:
    """How many requests a runtime has answered, from any tier."""
    return view.from_memory + view.from_disk + view.compiled + view.failed


SORTS: dict[str, Callable[[RuntimeView], float]] = {
    "age": lambda view: view.opened_unix_seconds,
    "requests": lambda view: -requests_of(view),
    "compiles": lambda view: -len(view.compiles),
    "memory": lambda view: -(view.device.live_memory_bytes if view.device else 0),
}
"""What comes first: the oldest, or the one with the most."""


class _Seen(NamedTuple):
    beat: float
    requests: int
    rate: float | None


class Rates:
    """Requests per second of each runtime, from one look to the next."""

    def __init__(self) -> None:
        self._seen: dict[_Whose, _Seen] = {}

    def take(self, views: Sequence[RuntimeView], now: float) -> None:
        """Take in what a look has shown.

        Args:
            views: All runtimes.
            now: Monotonic.
        """
        before, self._seen = self._seen, {}
        for view in views:
            whose = _whose(view)
            self._seen[whose] = _after(before.get(whose), view, now - view.silent_seconds)

    def of(self, view: RuntimeView) -> float | None:
        """Requests per second between its last two beats; None before the second one."""
        seen = self._seen.get(_whose(view))
        return None if seen is None or view.state == "dead" else seen.rate


def draw(
    views: Sequence[RuntimeView],
    rates: Rates,
    cache_dir: str | None,
    *,
    hint: str = "",
    nothing: str = "",
) -> Drawn:
    """Return what is shown of some runtimes.

    Args:
        views: In the order in which they are to be shown.
        rates: Of requests.
        cache_dir: Whose runtimes these are; None if of all caches.
        hint: Shown at the top as well.
        nothing: Shown as well if there are none.
    """
    where = "all caches" if cache_dir is None else cache_dir
    if not views:
        return f"no open runtime of this machine and user uses {where}\n{nothing}".rstrip()
    now = time.strftime("%H:%M:%S")
    parts: list[str | Styled | Table] = [
        Styled(f"{_summary(views)}  {now}  {hint}".rstrip(), "bold"),
        Styled(where, one_line=True),
        "",
        _runtimes(views, rates),
    ]
    for title, part in (
        ("compiling", _compiles(views)),
        ("waiting", _waits(views)),
        ("caches", _caches(views) if cache_dir is None else None),
        ("problems", _problems(views)),
    ):
        if part is not None:
            parts += ["", Styled(title, "bold"), part]
    return Stack(*parts)


def _whose(view: RuntimeView) -> _Whose:
    return view.namespace, view.pid, view.start_ticks, view.number


def _after(before: _Seen | None, view: RuntimeView, beat: float) -> _Seen:
    requests = requests_of(view)
    if before is None:
        return _Seen(beat, requests, None)
    if beat - before.beat < 0.1:  # no beat since
        return before if view.state == "running" else before._replace(rate=0.0)
    return _Seen(beat, requests, max(0, requests - before.requests) / (beat - before.beat))


def _summary(views: Sequence[RuntimeView]) -> str:
    numbers = [count(len(views), "runtime", "runtimes")]
    for what, number in (
        ("compiling", sum(len(view.compiles) for view in views if view.state != "dead")),
        ("waiting", sum(len(view.waits) for view in views if view.state != "dead")),
        ("stopped", sum(view.state == "stopped" for view in views)),
        ("late", sum(view.state == "late" for view in views)),
        ("dead", sum(view.state == "dead" for view in views)),
    ):
        if number:
            numbers.append(f"{number} {what}")
    return ", ".join(numbers)


def _runtimes(views: Sequence[RuntimeView], rates: Rates) -> Table:
    drawn = table(
        "pid", "program", "state", "mem", "disk", "comp", "fail", "req/s", "queue", "device",
        numbers=("pid", "mem", "disk", "comp", "fail", "req/s", "queue"), whole=("state", "device"),
        optional=("req/s", "mem", "disk"),
    )  # fmt: skip
    several = {view.pid for view in views if view.number > 1}
    for view in views:
        rate = rates.of(view)
        drawn.add_row(
            str(view.pid),
            _cut(view.program, 12) if view.pid not in several else f"{view.program} {view.number}",
            Styled(_state(view), _STYLES.get(view.state, "")),
            _number(view.from_memory),
            _number(view.from_disk),
            _number(view.compiled),
            _number(view.failed),
            "-" if rate is None else _rate(rate),
            f"{view.running}+{view.queued}",
            _device(view.device),
        )
    return drawn


def _state(view: RuntimeView) -> str:
    if view.state == "running":
        return "running"
    since = _age(view.silent_seconds)
    return {"late": f"late {since}", "unknown": f"silent {since}"}.get(
        view.state, f"{view.state} {since}"
    )


def _device(device: DeviceView | None) -> str:
    """Memory in use, and the age of the oldest ticket if the device is at one."""
    if device is None:
        return "none"
    if device.lost_code:
        return f"lost {device.lost_code}"
    if device.stuck:
        return f"stuck {_age(device.since_seconds)}"
    memory = _size(device.live_memory_bytes)
    return f"{memory} {_age(device.oldest_ticket_seconds)}" if device.in_flight else memory


def _compiles(views: Sequence[RuntimeView]) -> Table | None:
    rows = [
        (compiling.seconds + view.silent_seconds, view, compiling)
        for view in views
        if view.state != "dead"
        for compiling in view.compiles
    ]
    if not rows:
        return None
    drawn = table(
        "pid", "phase", "for", "cpu", "kernel", "why",
        numbers=("pid", "for", "cpu"), optional=("cpu", "why"),
    )  # fmt: skip
    for seconds, view, compiling in sorted(rows, key=lambda row: -row[0]):
        phase = compiling.phase
        if phase == "queued" and view.held_back:
            phase = f"queued ({view.held_back})"
        name = compiling.name or compiling.entry
        drawn.add_row(
            str(view.pid),
            phase,
            f"{seconds:.1f} s",
            f"{compiling.cpu_seconds:.1f} s",
            f"{name} {compiling.key[:8]}",
            Styled(short_reason(compiling.reason), one_line=True),
        )
    return drawn


def _waits(views: Sequence[RuntimeView]) -> Table | None:
    rows = [
        (wait.waited_seconds + view.silent_seconds, view, wait)
        for view in views
        if view.state != "dead"
        for wait in view.waits
    ]
    if not rows:
        return None
    drawn = table("pid", "for", "kernel", "waits for", numbers=("pid", "for"))
    for seconds, view, wait in sorted(rows, key=lambda row: -row[0]):
        drawn.add_row(
            str(view.pid),
            f"{seconds:.1f} s",
            f"{wait.name} {wait.key[:8]}",
            _whom(view, wait, views),
        )
    return drawn


def _whom(view: RuntimeView, wait: WaitView, views: Sequence[RuntimeView]) -> str:
    """Who is waited for, and what that process is at, or that it is stopped."""
    if not wait.pid:
        return "another process"
    if wait.host not in {one.host for one in views}:
        return f"pid {wait.pid} on {wait.host}, {wait.phase} for {_since(view, wait)}"
    for one in views:
        if (one.pid, one.namespace, one.state) == (wait.pid, view.namespace, "stopped"):
            return f"pid {wait.pid}, stopped {format_age(one.silent_seconds)}"
    return f"pid {wait.pid}, {wait.phase} for {_since(view, wait)}"


def _since(view: RuntimeView, wait: WaitView) -> str:
    return f"{wait.age_seconds + view.silent_seconds:.0f} s"


def _caches(views: Sequence[RuntimeView]) -> Table:
    drawn = table("cache", "pids")
    for cache in dict.fromkeys(view.cache_dir for view in views):
        pids = dict.fromkeys(str(view.pid) for view in views if view.cache_dir == cache)
        drawn.add_row(cache, ", ".join(pids))
    return drawn


def _problems(views: Sequence[RuntimeView]) -> Table | None:
    rows = [*_cache_problems(views), *_recent_errors(views)]
    if not rows:
        return None
    drawn = table(
        "pid", "ago", "what", "about", "problem", numbers=("pid", "ago"), optional=("about",)
    )
    for row in rows:
        drawn.add_row(*row[:-1], Styled(row[-1], one_line=True))
    return drawn


def _cache_problems(views: Sequence[RuntimeView]) -> Iterator[tuple[str, ...]]:
    for view in views:
        if view.cache_problem and view.state != "dead":
            name = Path(view.cache_dir).name
            yield str(view.pid), "", "Cache", name, view.cache_problem


def _recent_errors(views: Sequence[RuntimeView]) -> list[tuple[str, ...]]:
    now = time.time()
    found = sorted(
        ((now - error.unix_seconds, view, error) for view in views for error in view.recent_errors),
        key=lambda one: one[0],
    )
    return [
        (str(view.pid), format_age(ago), error.kind, error.name, error.text)
        for ago, view, error in found[:MOST_ERRORS]
        if ago < RECENT_SECONDS
    ]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _number(number: float) -> str:
    """``9876``, ``12.3k``, ``456k``, ``7.8M``: at most five characters."""
    value = float(number)
    if value < 10_000:
        return f"{value:.0f}"
    for unit in "kMGT":
        value /= 1000
        if value < 999.5:
            return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.1f}{unit}"
    return "many"


def _rate(rate: float) -> str:
    return f"{rate:.1f}" if rate < 999.95 else _number(rate)


def _age(seconds: float) -> str:
    """``12s``, ``116m``, ``47h``, ``3d``: at most four characters, for some years."""
    for unit, unit_seconds in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * unit_seconds:
            return f"{seconds // unit_seconds:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def _size(size_bytes: float) -> str:
    """``0B``, ``512K``, ``1.5G``, ``139G``: at most four characters."""
    value = float(size_bytes)
    for unit in ("B", "K", "M", "G"):
        if value < 999.5:
            return f"{value:.1f}{unit}" if unit in "MG" and value < 9.95 else f"{value:.0f}{unit}"
        value /= 1024
    return f"{value:.1f}T"
