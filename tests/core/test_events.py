"""Events are plain facts, and a subscriber cannot disturb what it watches."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from ajit._core import events
from ajit._core.event import Stamp
from ajit._core.events import CacheUnwritable, CompileFailed, Emitter, Event, Holder

EVENTS = [
    value
    for name in events.__all__
    if isinstance(value := getattr(events, name), type) and issubclass(value, Event)
]
VALUES = {"str": "x", "float": 0.5, "int": 3, "Holder | None": None, "Tier": "disk"}


def make(event: type[Event]) -> Event:
    """An event with every field given."""
    return event(
        **{item.name: VALUES.get(item.type, "lease") for item in dataclasses.fields(event)}
    )


def emitter(*subscribers) -> tuple[Emitter, list]:
    """An emitter with subscribers, and the list of what they raised."""
    raised = []
    made = Emitter(
        lambda subscriber, error: raised.append((subscriber, error)),
        lambda: Stamp(1_700_000_000.5, 12.25, 7, "node3"),
    )
    for subscriber in subscribers:
        made.subscribe(subscriber)
    return made, raised


def test_every_event_is_public():
    """A subscriber can name each one."""
    assert {event.__name__ for event in Event.__subclasses__()} <= set(events.__all__)
    assert len(EVENTS) > 5


@pytest.mark.parametrize("event", [*EVENTS, Holder])
def test_event_is_a_frozen_value(event):
    """It may be kept, compared, hashed and sent; no subscriber changes it for the next."""
    made = make(event)

    assert made == make(event)
    assert hash(made) == hash(make(event))
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301
    assert not hasattr(made, "__dict__"), "slots: events are made often"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(event)[0].name, "other")


@pytest.mark.parametrize("event", EVENTS)
def test_event_says_what_it_is_about(event):
    """Spec and key, by name, as every fact is."""
    made = make(event)

    assert (made.name, made.key) == ("x", "x")
    assert event.__doc__
    with pytest.raises(TypeError):
        event("x", "x")


def test_subscribers_are_called_in_order():
    """Each with every event, from its subscription on."""
    seen = []
    made, _ = emitter(lambda event: seen.append(("one", event)))
    first, second = make(CacheUnwritable), make(CompileFailed)
    made.emit(first)
    made.subscribe(lambda event: seen.append(("two", event)))
    made.emit(second)

    assert seen == [("one", first), ("one", second), ("two", second)]


def test_an_emitter_listens_only_while_it_has_subscribers():
    """Emitters ask `listening` before an event is even built."""
    made, _ = emitter()
    assert not made.listening
    leave = made.subscribe(print)
    assert made.listening
    leave()

    assert not made.listening
    leave()  # a second time does nothing


def test_subscriber_that_raises_is_reported_and_passed_over():
    """A broken log line fails no kernel."""
    seen = []
    error = ValueError("broken")

    def broken(_event):
        raise error

    made, raised = emitter(broken, seen.append)
    made.emit(make(CompileFailed))

    assert seen == [make(CompileFailed)]
    assert raised == [(broken, error)]


def test_subscriber_may_leave_while_it_is_called():
    """It misses nothing that it has not left, and the others miss nothing."""
    seen = []
    made, _ = emitter()

    def once(event):
        seen.append("once")
        leave()

    leave = made.subscribe(once)
    made.subscribe(lambda event: seen.append("always"))
    made.emit(make(CompileFailed))
    made.emit(make(CompileFailed))

    assert seen == ["once", "always", "always"]


def test_one_function_subscribed_twice_leaves_once():
    """Each subscription is its own."""
    seen = []
    made, _ = emitter()
    leave = made.subscribe(seen.append)
    made.subscribe(seen.append)
    leave()
    leave()
    made.emit(make(CompileFailed))

    assert len(seen) == 1


def test_emitted_event_says_when_and_where():
    """By both clocks, with process and host: lines of many processes can be put in order."""
    seen = []
    made, _ = emitter(seen.append)
    made.emit(CacheUnwritable(name="k", key="", reason="full"))

    (event,) = seen
    assert (event.unix_seconds, event.monotonic_seconds) == (1_700_000_000.5, 12.25)
    assert (event.pid, event.host) == (7, "node3")
    assert event == CacheUnwritable(name="k", key="", reason="full"), "it says the same"
    assert "node3" not in repr(event), "a representation is what it says, in one line"


def test_event_that_a_subscriber_raised_at_is_counted():
    """It was lost for that subscriber."""

    def broken(_event):
        raise ValueError("no")

    made, raised = emitter(broken, lambda _event: None)
    made.emit(CacheUnwritable(name="k", key="", reason="full"))

    assert made.failed == len(raised) == 1
