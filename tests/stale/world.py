"""A server with its cache, and what a fresh compile gives beside it.

Whatever was edited before a request, the server has to answer what a compile without any cache
answers at that moment: the same bytes of code, or the same error. `Server.check` asks both.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import ajit
from ajit._core import events
from ajit._resolve.compiling import job_of
from ajit.errors import CompileError
from tests.compile.support import KEY, Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KERNEL = '\nextern "C" __global__ void k(int* x) { x[0] = V; }\n'
MANY_JOBS: dict[str, Any] = {"worker_max_jobs": 1_000_000, "worker_max_bytes": 2**40}
"""A worker that is replaced in the middle of a test would look like a process left behind."""


class Answer(NamedTuple):
    """What came of a request: code, or a compiler's error."""

    code: bytes
    error: str


class Server:
    """A runtime on a cache, and a bench that compiles without one. One thread may use it.

    Attributes:
        said: The events so far.
        key: Of the last artifact.
    """

    def __init__(self, cache: Path, **settings: Any) -> None:
        self.said: list[events.Event] = []
        self.key = ""
        self._hooks: list[tuple[type[events.Event], Callable[[], object]]] = []
        self._bench = Bench(**MANY_JOBS, **settings)
        self._opening = ajit.open_blocking_runtime(
            device="none",
            cache_dir=str(cache),
            compile_slots=1,
            subscribers=[self._on_event],
            **MANY_JOBS,
            **settings,
        )
        self._runtime = self._opening.__enter__()

    def close(self) -> None:
        """Close the runtime and end both workers."""
        self._bench.close()
        self._opening.__exit__(None, None, None)

    def answer(self, spec: ajit.Spec) -> Answer:
        """What the server answers."""
        try:
            artifact = self._runtime.compile(spec)
        except CompileError as exc:
            return Answer(b"", f"{type(exc).__name__}: {exc.log}")
        self.key = artifact.key
        return Answer(artifact.data, "")

    def fresh(self, spec: ajit.Spec) -> Answer:
        """What a compile without a cache gives."""
        assert spec.arch is not None
        assert spec.compiler != "auto"
        job = job_of(spec, KEY, spec.compiler, spec.arch)
        try:
            return Answer(self._bench.compile(job).data, "")
        except CompileError as exc:
            return Answer(b"", f"{type(exc).__name__}: {exc.log}")

    def check(self, spec: ajit.Spec) -> Answer:
        """Ask both, and compare."""
        expected = self.fresh(spec)
        actual = self.answer(spec)

        assert actual == expected
        return actual

    def check_edits(self, spec: ajit.Spec, header: Path) -> Answer:
        """Ask both before a header is there, after it came, after an edit, and after it has gone.

        Returns:
            The last answer.
        """
        self.check(spec)
        for number in (1, 2):
            header.write_text(f"#define V {number}\n")
            self.check(spec)
        header.unlink()
        return self.check(spec)

    @contextlib.contextmanager
    def when(self, event: type[events.Event], act: Callable[[], object]) -> Iterator[None]:
        """Do something in the server's loop, once, as soon as an event happens."""
        hook = (event, act)
        self._hooks.append(hook)
        yield
        assert hook not in self._hooks, f"there was no {event.__name__}"

    def forget_hooks(self) -> None:
        """Do nothing any more at events to come."""
        self._hooks.clear()

    def compiles(self) -> int:
        """How many compiles there were so far."""
        return sum(isinstance(event, events.CompileStarted) for event in self.said)

    def unpublished(self) -> int:
        """How many artifacts were used and not published."""
        return sum(isinstance(event, events.NotPublished) for event in self.said)

    def _on_event(self, event: events.Event) -> None:
        self.said.append(event)
        for hook in [hook for hook in self._hooks if isinstance(event, hook[0])]:
            self._hooks.remove(hook)
            hook[1]()
