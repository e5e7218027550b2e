"""KV pages in pieces of 1 KiB to 4 MiB: saved and loaded by copies, beside memmove and NumPy.

A piece is what a page of one layer takes; all pages are in a random order. Speeds are to the end of
the device's work, and every byte is compared outside of the times, as in `benchmarks.kv`.
"""

from __future__ import annotations

import statistics

import anyio

from ajit import kv
from benchmarks.harness import GB, Row
from benchmarks.kv import MEMMOVE_SHARE, Times, measure

PIECES = tuple(1024 << shift for shift in range(0, 13, 2))
"""1 KiB to 4 MiB."""
TOTAL_BYTES = 128 << 20
LAYERS = 4
PAGE_TOKENS = 16
MOST_CHUNK_PAGES = 16


def rows() -> list[Row]:
    """Measure."""
    return [row for piece in PIECES for row in _rows(piece)]


def _rows(piece: int) -> list[Row]:
    count = TOTAL_BYTES // (LAYERS * piece)
    chunk_pages = min(count, MOST_CHUNK_PAGES)
    layout = kv.Layout(
        layers=LAYERS, planes=1, heads=1, dim=piece // (2 * PAGE_TOKENS), dtype="float16",
        page_tokens=PAGE_TOKENS, chunk_tokens=PAGE_TOKENS * chunk_pages, axes="BTHD",
    )  # fmt: skip
    times = anyio.run(measure, layout, count)
    memmove = _speeds(times, "memmove")
    beside = f"memmove {_text(memmove)}, numpy.take {_text(_speeds(times, 'take'))} GB/s"
    name = f"{piece >> 10} KiB" if piece < 1 << 20 else f"{piece >> 20} MiB"
    found = []
    for what in ("save", "load"):
        speeds = _speeds(times, what)
        met = statistics.median(speeds) >= MEMMOVE_SHARE * statistics.median(memmove)
        budget = f"{MEMMOVE_SHARE:.0%} of memmove"
        found.append(
            Row(f"{what} in pieces of {name}", f"{_text(speeds)} GB/s", budget, met, beside)
        )
    return found


def _speeds(times: Times, what: str) -> list[float]:
    return sorted(times.nbytes / seconds / GB for seconds in getattr(times, what))


def _text(speeds: list[float]) -> str:
    """The median, and where the middle half of them lies."""
    low, high = speeds[len(speeds) // 4], speeds[-1 - len(speeds) // 4]
    return f"{statistics.median(speeds):.1f} ({low:.1f} to {high:.1f})"
