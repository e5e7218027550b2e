"""What went wrong, told by a board and by the runtime's own events: each is one problem."""

from __future__ import annotations

import pytest

from ajit import events
from ajit._runtime.board_form import RuntimeView
from ajit._runtime.board_view import error_of
from ajit.dashboard.problems import Heard, merged, of_boards

TROUBLES = [
    events.BackgroundFailed(name="", key="", doing="evict", reason="no space"),
    events.CacheUnresponsive(name="", key="", reason="it hangs"),
    events.CacheUnwritable(name="gelu", key="a1", reason="no space"),
    events.CompileFailed(
        name="gelu", key="a1", error="gelu does not compile:\ngelu.cu:3: error: no", seconds=1.0
    ),
    events.DeviceLost(name="cpu", key="", code=999),
    events.DeviceStalled(name="cpu", key="", operation="launch", seconds=12.0, in_flight=4),
    events.EntryRejected(name="gelu", key="a1", reason="its digest is another"),
]


@pytest.mark.parametrize("event", TROUBLES, ids=lambda event: type(event).__name__)
def test_what_a_board_and_an_event_tell_is_one_problem(event):
    """With the log, which only the event has."""
    heard = Heard(logs=True)
    heard(event)
    view = RuntimeView(pid=event.pid, host=event.host, recent_errors=(error_of(event),))
    [problem] = merged(event.unix_seconds + 1, heard.problems, of_boards([view]))

    assert (type(event).__name__, event.name, event.key) == (
        problem.kind,
        problem.name,
        problem.key,
    )
    assert "\n" not in problem.text != ""
    assert (getattr(event, "error", "") != "") == (problem.log != "")


def test_what_is_no_trouble_is_no_problem():
    """A compile that was cancelled, say."""
    heard = Heard(logs=True)
    heard(events.CompileCancelled(name="gelu", key="a1", seconds=1.0))

    assert () == heard.problems
