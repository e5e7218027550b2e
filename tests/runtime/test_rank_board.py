"""What one rank makes of the posts that it sees, without a cache."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ajit._core.readiness import Limits, State
from ajit._runtime.rank_board import _NAMES, _OWN_NAMES, RankBoard
from ajit._runtime.ranks import Ranks

LIMITS = Limits(silence_seconds=3.0, absence_seconds=60.0)


def test_a_post_that_was_left_ousts_no_rank() -> None:
    """Its process had a clock that was ahead, and has ended."""
    board = RankBoard(Ranks(2, 0), LIMITS)
    post = board.due(0.0)
    assert post is not None
    left = msgspec.structs.replace(post, session=f"9{post.session}")
    for _ in range(3):
        board.take_in([left, None])

    assert not board.is_ousted
    assert board.state is State.WORKING


def test_every_word_for_a_rank_is_documented() -> None:
    """The endpoint answers with them, and an operator looks them up."""
    page = (Path(__file__).parents[2] / "docs" / "warmup.md").read_text()
    own = {_OWN_NAMES.get(state, state.value) for state in State} - {"fetching", "complete"}
    words = {*_NAMES.values(), *own, "alone"}

    assert sorted(words) == sorted(word for word in words if f"  | `{word}` | " in page)


def test_a_later_process_ousts() -> None:
    """It goes on, and so its post does, which takes the place of this one's."""
    board = RankBoard(Ranks(2, 0), LIMITS)
    own = board.due(0.0)
    assert own is not None
    later = msgspec.structs.replace(own, session=f"9{own.session}")
    board.take_in([later, None])
    board.take_in([own, None])
    board.take_in([msgspec.structs.replace(later, beat=2), None])

    assert board.is_ousted
    assert board.state is State.OUSTED
