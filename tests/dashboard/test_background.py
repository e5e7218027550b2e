"""What is read in the background: only while it is asked for, and without holding up the caller."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from ajit.dashboard import background as background_module
from ajit.dashboard.background import Background
from tests.cache.helpers import poll
from tests.runtime.processes import PROJECT


@pytest.fixture
def lingering(monkeypatch):
    """Threads go on for a moment only."""
    monkeypatch.setattr(background_module, "LINGER_SECONDS", 0.3)


class Counted:
    """A function that counts its calls, and can be made to hang or fail."""

    def __init__(self):
        self.calls = 0
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.error = None

    def __call__(self):
        """Count."""
        self.calls += 1
        self.goes_on.wait(60)
        if self.error:
            raise self.error
        return self.calls


def test_nothing_is_read_until_somebody_asks():
    """Making one starts nothing."""
    look = Counted()
    background = Background(look, 0.01)

    assert 0 == look.calls
    assert (0, None) == (background._seen.number, background._seen.value)


def test_it_reads_on_while_it_is_asked():
    """Each answer is what was found last."""
    look = Counted()
    background = Background(look, 0.01)
    poll(lambda: background.latest().number >= 3)

    seen = background.latest()

    assert seen.value == seen.number


def test_it_stops_when_nobody_asks(lingering):
    """And begins again with the next question."""
    look = Counted()
    background = Background(look, 0.01)
    poll(lambda: background.latest().number >= 1)
    poll(lambda: not background._looking.locked())
    calls = look.calls
    poll(lambda: background.latest().number > calls)

    assert look.calls > calls


def test_what_was_found_before_a_pause_is_not_fresh(lingering):
    """Until it has been looked at again."""
    look = Counted()
    background = Background(look, 0.01)
    look.goes_on.clear()
    first = background.is_fresh()
    look.goes_on.set()
    poll(background.is_fresh)
    poll(lambda: not background._looking.locked())
    look.goes_on.clear()
    after = background.is_fresh()
    known = background.latest().number
    look.goes_on.set()
    poll(background.is_fresh)

    assert (False, False) == (first, after)
    assert background.latest().number > known


def test_who_asks_is_not_held_up_by_a_call_that_hangs():
    """It gets what is known, and for how long there has been no answer."""
    look = Counted()
    background = Background(look, 0.01)
    poll(lambda: background.latest().number >= 1)
    look.goes_on.clear()
    known = poll(lambda: background.silent_seconds > 0.05 and background.latest())
    calls = look.calls
    for _ in range(10):
        background.latest()

    assert known.value is not None
    assert calls == look.calls  # no second one hangs beside it
    look.goes_on.set()
    poll(lambda: background.latest().number > known.number)


def test_what_a_call_raises_is_told_and_tried_again():
    """What was found before stays."""
    look = Counted()
    background = Background(look, 0.01)
    poll(lambda: background.latest().number >= 1)
    look.error = OSError("the disk\x1b is\u202e gone")
    problem = poll(lambda: background.latest().problem)
    value = background.latest().value
    look.error = None
    poll(lambda: not background.latest().problem)

    assert "the disk\\x1b is\\u202e gone" == problem
    assert value is not None


def test_a_slow_call_is_made_less_often(monkeypatch):
    """A large cache does not take all of a thread's time."""
    monkeypatch.setattr(background_module, "SHARE", 0.5)
    begun = []

    def look():
        begun.append(time.monotonic())
        time.sleep(0.1)

    background = Background(look, 0.001)
    poll(lambda: background.latest().number >= 3)

    assert begun[2] - begun[0] >= 4 * 0.1 * 0.99


FORK = """
import os, time
from ajit.dashboard.background import Background
look = Background(lambda: os.getpid(), 0.01)
while not look.latest().number: time.sleep(0.01)
child = os.fork()
if not child:
    while not look.latest().number: time.sleep(0.01)
    os._exit(0 if look.latest().value == os.getpid() else 1)
print(os.waitpid(child, 0)[1])
"""


def test_a_forked_child_begins_anew():
    """The parent's thread is not there."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    assert "0\n" == done.stdout


def test_a_problem_that_stays_is_logged_once(caplog):
    """Not at each look; it is shown all the time."""
    caplog.set_level("DEBUG", "ajit.dashboard")
    look = Counted()
    look.error = OSError("there is no cache yet")
    background = Background(look, 0.01)
    poll(lambda: background.latest().number >= 5)
    told = [one for one in caplog.records if "there is no cache yet" in (one.exc_text or "")]

    assert "there is no cache yet" == background.latest().problem
    assert 1 == len(told)
