"""What goes over HTTP: a question as JSON, the answer as lines of JSON, one for each token."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from examples.kv_engine.engine import Answer, Use

if TYPE_CHECKING:
    from examples.kv_engine.weights import Array

__all__ = ["BadRequest", "Question", "end_line", "logits_in", "token_line"]

MOST_BYTES = 1 << 20
"""Of a question: far more than any prompt may have."""


class BadRequest(ValueError):
    """The client's mistake. Nothing was done."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, checked.

    Attributes:
        prompt: Its tokens: the bytes of the text.
        max_tokens: How many to decode.
        cache: How it may use the store.
    """

    prompt: list[int]
    max_tokens: int
    cache: Use

    @classmethod
    def read(cls, body: bytes) -> Question:
        """Read a question.

        Raises:
            BadRequest: It is none.
        """
        try:
            said: dict[str, Any] = json.loads(body)
            prompt = list(said["prompt"].encode())
            count, cache = said.get("max_tokens", 16), said.get("cache", "layers")
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise BadRequest(f"expected an object with a prompt: {exc!r}") from exc
        if not prompt or not isinstance(count, int) or count < 1:
            raise BadRequest("a prompt has a byte or more, and so has its answer")
        if cache not in get_args(Use):
            raise BadRequest(f"cache is {cache!r}; expected one of {', '.join(get_args(Use))}")
        return cls(prompt, count, cast("Use", cache))


def token_line(token: int, logits: Array) -> bytes:
    """The line of a token."""
    text = base64.b64encode(logits.astype("<f4").tobytes()).decode()
    return json.dumps({"token": token, "logits": text}).encode() + b"\n"


def logits_in(line: dict[str, Any]) -> Array:
    """The logits in a token's line, [vocabulary], float32."""
    return np.frombuffer(base64.b64decode(line["logits"]), "<f4")


def end_line(answer: Answer) -> bytes:
    """The last line: what the answer came to."""
    return json.dumps({"end": asdict(answer)}).encode() + b"\n"
