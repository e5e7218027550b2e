"""Every way but that of a hit whose memo holds: look up, wait or compile, publish.

Whatever goes wrong with the cache, the compiler is run: a launcher never fails a build.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from typing import TYPE_CHECKING, NoReturn

import ajit
from ajit._cache.leases.permits import CompilePermits
from ajit._cache.leases.table import Busy, Lease
from ajit._core.entry import Artifact
from ajit._core.job import CompileJob
from ajit._core.reads import ReadingList, key_of
from ajit._launcher import quick
from ajit._launcher.base import wanted as make_wanted
from ajit._launcher.cache import CacheGone, Hit, LauncherCache
from ajit._launcher.command import PassThrough, family_of, understand
from ajit._launcher.environment import refusal
from ajit._launcher.judging import CannotKeep, judge, judge_failure
from ajit._launcher.memos import make_memo
from ajit._launcher.outputs import STDERR, STDOUT, Section, pack, replay
from ajit._launcher.running import CannotRun, Ran, run
from ajit.errors import AjitError, CompileError
from ajit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ajit._launcher.base import Wanted

__all__ = ["resolve"]

PERMIT_POLL_SECONDS = 0.05

MOST_LEASES = 4
"""Pretty arbitrary: each compile of this source may tell of one more directory that matters."""


def resolve(compiler: str, arguments: Sequence[str], memo_key: str) -> int:
    """Find or make the result of a compile, and return the compiler's exit code.

    Args:
        compiler: Path of the compiler.
        arguments: Its arguments.
        memo_key: What a memo of it is kept under.

    Does not return where the compiler takes the place of this process.
    """
    cache = None
    try:
        with contextlib.suppress(CacheGone, AjitError):
            cache = LauncherCache(Settings(config_files=False))
        wanted = _understood(compiler, arguments)
        if cache is not None:
            return _Resolving(cache, wanted, list(arguments), memo_key).resolve()
        reason = "no cache"
    except (PassThrough, CacheGone, CannotRun) as exc:
        reason = exc.reason if isinstance(exc, PassThrough) else "cache does not answer"
    return _pass_through(cache, compiler, arguments, reason)


def _pass_through(
    cache: LauncherCache | None, compiler: str, arguments: Sequence[str], reason: str
) -> NoReturn:
    """Become the compiler. Counts why, where there is a cache to count in."""
    if cache is not None:
        cache.count(f"passed through: {reason}")
    if sys.stdout is not None:  # it is, where a build system has closed it
        sys.stdout.flush()
    try:
        os.execv(compiler, [compiler, *arguments])
    except OSError as exc:
        sys.stderr.write(f"ajit cc: {compiler}: {exc.strerror}\n")
        sys.exit(127 if isinstance(exc, FileNotFoundError) else 126)


def _understood(compiler: str, arguments: Sequence[str]) -> Wanted:
    if reason := refusal():
        raise PassThrough(reason)
    return make_wanted(understand(family_of(compiler), arguments), compiler)


class _Resolving:
    """One compile, from look-up to memo. Belongs to the main thread."""

    def __init__(
        self, cache: LauncherCache, wanted: Wanted, arguments: list[str], memo_key: str
    ) -> None:
        self._cache = cache
        self._wanted = wanted
        self._arguments = arguments
        self._memo_key = memo_key

    def resolve(self) -> int:
        found = self._cache.look(self._wanted)
        if found is not None:
            return self._replay(found, "hit")
        with contextlib.ExitStack() as stack:
            outcome = self._lease()
            if isinstance(outcome, Lease):
                stack.callback(outcome.release)
            elif isinstance(outcome, Hit):
                return self._replay(outcome, "hit after waiting")
            elif outcome is not None:
                return self._replay_failure(outcome)
            return self._compile(outcome)

    # --- found ---

    def _replay(self, hit: Hit, what: str) -> int:
        try:
            replay(hit.sections, dict(self._wanted.command.outputs))
        except OSError:  # as the compiler will say
            raise PassThrough("output cannot be written") from None
        self._count(what)
        self._keep_memo(hit)
        self._cache.close(collect=False)
        return 0

    def _replay_failure(self, error: CompileError) -> int:
        try:
            code, out, err = json.loads(error.log)
        except ValueError:
            return self._compile(None)
        printed = [(STDOUT, out), (STDERR, err)]
        replay(
            [Section(name, 0, text.encode(errors="surrogateescape")) for name, text in printed], {}
        )
        self._count("failure after waiting")
        return int(code)

    def _keep_memo(self, hit: Hit) -> None:
        with contextlib.suppress(CacheGone):
            if self._cache.can_keep and self._cache.trust.required == "none":
                memo = make_memo(self._wanted, hit)
                if memo is not None:
                    name = quick.memo_name(self._memo_key)
                    self._cache.publish_file(name, quick.encode(memo))

    # --- made ---

    def _lease(self) -> Lease | Hit | CompileError | None:
        if not self._cache.can_keep:
            return None
        key = self._cache.lease_key(self._wanted)
        for _ in range(MOST_LEASES):
            outcome = self._lease_of(key)
            before, key = key, self._cache.lease_key(self._wanted)
            if not isinstance(outcome, Lease) or key == before:
                return outcome
            # Meanwhile it is known that what the others make is of no use here.
            outcome.release()
        return None

    def _lease_of(self, key: str) -> Lease | Hit | CompileError | None:
        family, name, leases = self._wanted.command.family, self._name, self._cache.leases
        taken = self._cache.ask(lambda: leases.try_acquire(key, family, name=name), _release_late)
        if isinstance(taken, Lease):
            # Published since the first look.
            found = self._cache.look(self._wanted)
            if found is not None:
                taken.release()
            return found or taken
        if not isinstance(taken, Busy):
            return None
        from ajit._launcher.waiting import wait_for_lease  # noqa: PLC0415  # an event loop: 50 ms

        return wait_for_lease(self._cache, self._wanted, key)

    def _compile(self, lease: Lease | None) -> int:
        with self._permit(lease):
            ran = run([self._wanted.compiler, *self._arguments], lambda: _beat(lease))
        try:
            if ran.ok:
                self._keep(ran, lease)
            else:
                self._count("failed")
                with contextlib.suppress(CannotKeep):
                    self._keep_failure(ran, lease)
        except CannotKeep as exc:
            self._count(f"not kept: {exc.reason}")
        except CacheGone:
            self._count("not kept: cache does not answer")
        if lease is not None:
            lease.release()
        self._cache.close(collect=True)
        return _exit_code(ran.status)

    def _keep(self, ran: Ran, lease: Lease | None) -> None:
        with lease.publishing() if lease is not None else contextlib.nullcontext():
            kept = judge(self._wanted, ran)
            made = ReadingList(kept.reads)
            key = key_of(self._wanted.base, made, kept.states)
            data = pack(key.hex, kept.sections)
            if not self._cache.can_keep:
                raise CannotKeep("cache cannot be written")
            artifact = self._artifact(ran, key.hex, key.fields, data)
            if not self._cache.publish(artifact, made):
                raise CannotKeep("cache cannot be written")
        if lease is not None:
            lease.published = True
        self._count("compiled")
        self._keep_memo(Hit(key.hex, kept.sections, kept.reads, kept.states))

    def _keep_failure(self, ran: Ran, lease: Lease | None) -> None:
        if lease is None or os.WIFSIGNALED(ran.status):
            return
        reads, states = judge_failure(self._wanted, ran)
        texts = [text.decode(errors="surrogateescape") for text in (ran.stdout, ran.stderr)]
        error = CompileError(
            name=self._name,
            key=self._wanted.base.hex,
            compiler=self._wanted.command.family,
            log=json.dumps([_exit_code(ran.status), *texts]),
        )
        self._cache.record_failure(error, reads, states)
        lease.published = True

    @contextlib.contextmanager
    def _permit(self, lease: Lease | None) -> Iterator[None]:
        settings = self._cache.settings
        permits = CompilePermits(
            self._cache.directory,
            settings.node_compile_slots,
            patience_seconds=settings.patience_seconds,
            patience_total_seconds=settings.patience_total_seconds,
            trust=self._cache.trust,
        )
        job = self._job()
        due = time.monotonic() + 1.0
        while (permit := permits.try_admit(job)) is None:
            time.sleep(PERMIT_POLL_SECONDS)
            if lease is not None and time.monotonic() > due:
                lease.post_beat("queued")
                due += 1.0
        try:
            yield
        finally:
            permit.release()

    def _job(self) -> CompileJob:
        nvcc = self._wanted.command.family != "gcc"
        return CompileJob(
            key=self._wanted.base.hex,
            name=self._name,
            source="",
            entries=(),
            compiler="nvcc" if nvcc else "host",
            arch="",
        )

    def _artifact(
        self, ran: Ran, key: str, fields: tuple[tuple[str, str], ...], data: bytes
    ) -> Artifact:
        program = os.path.basename(self._wanted.compiler)
        return Artifact(
            key=key,
            base=self._wanted.base.hex,
            key_fields=fields,
            name=self._name,
            kind="outputs",
            arch=platform.machine(),
            compiler=self._wanted.command.family,
            compiler_version=program,
            entries=(),
            lowered={},
            log=ran.stderr.decode(errors="replace"),
            command=(program, *(value for label, value in fields if label.startswith("argument"))),
            created=time.time(),
            seconds=ran.seconds,
            host=platform.node(),
            ajit_version=ajit.__version__,
            data=data,
        )

    @property
    def _name(self) -> str:
        return os.path.basename(self._wanted.command.sources[0])

    def _count(self, what: str) -> None:
        self._cache.count(what)


def _release_late(taken: object) -> None:
    if isinstance(taken, Lease):
        taken.release()


def _beat(lease: Lease | None) -> None:
    if lease is not None:
        lease.post_beat("compiling")


def _exit_code(status: int) -> int:
    """As a shell has it; the launcher then ends by the same signal where it can."""
    return os.waitstatus_to_exitcode(status)
