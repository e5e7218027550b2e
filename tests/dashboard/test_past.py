"""Compiles that have ended, as rows of the page."""

from __future__ import annotations

from ajit._cache.entries.history import Compiled
from ajit._resolve.lookup import CHANGED, NEVER_KEPT
from ajit.dashboard.past import log_rows


def test_a_row_says_in_a_few_words_why():
    """The error of one that failed; the usual reason in one word, others as they are."""
    ended = [
        Compiled(id="1", unix_seconds=1.0, outcome="failed", reason=NEVER_KEPT, error="a.cu:3: no"),
        Compiled(id="2", unix_seconds=1.0, outcome="compiled", reason=NEVER_KEPT),
        Compiled(id="3", unix_seconds=1.0, outcome="compiled", reason=CHANGED),
    ]

    rows = log_rows(ended)

    assert ["a.cu:3: no", "new", CHANGED] == [row.why for row in rows]
    assert [NEVER_KEPT, NEVER_KEPT, CHANGED] == [row.reason for row in rows]
