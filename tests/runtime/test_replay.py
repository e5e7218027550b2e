"""A record is replayed: what it lists is ready, and what it cannot be any more is reported."""

from __future__ import annotations

import anyio
import msgspec
import pytest

import ajit
from ajit._core.record import Text, Use, encode_line, text_digest, use_id
from ajit._core.spec_form import written_spec
from ajit._runtime import replay as replaying
from ajit._runtime.work import Ready
from tests.runtime.sources import ARCH, SAXPY, SYNTAX_ERROR, saxpy

pytestmark = [pytest.mark.anyio, pytest.mark.allow_blocking("the tests write the record")]


def lines_of(*uses, kind="spec", arch=ARCH, peer=""):
    """Lines of a record of these specs, or of builds of another kind."""
    for number, what in enumerate(uses):
        build, texts = written_spec(what) if isinstance(what, ajit.Spec) else (what, {})
        for digest, text in texts.items():
            yield encode_line(Text(digest, text))
        yield encode_line(
            Use(
                kind=kind,
                id=use_id(kind, peer, arch, build),
                name=f"{kind} {number}",
                arch=arch,
                first_use_seconds=float(number),
                build=msgspec.Raw(build),
            )
        )


@pytest.fixture
def path(tmp_path):
    """A record in one file; not there yet."""
    return tmp_path / "used.ajit"


def write(path, *lines):
    """Write a record."""
    path.write_bytes(b"".join(lines))
    path.chmod(0o600)
    return path


async def test_what_was_used_is_ready_at_the_next_start(with_device, path, compiler):
    """Recorded by one runtime, loaded by the next before its first request."""
    folder = path.with_suffix(".d")
    async with ajit.open_runtime(**with_device, record=folder) as rt:
        await rt.kernel(SAXPY)
        await rt.kernel(saxpy(1))
    started = compiler.started

    async with ajit.open_runtime(**with_device, record=folder) as rt:
        report = await rt.warmup(ajit.replay(folder))
        assert (report.total, report.from_disk, report.failures) == (2, 2, ())
        rt.kernel_nowait(SAXPY)
        rt.kernel_nowait(saxpy(1))
        again = await rt.warmup([ajit.replay(folder), SAXPY])

    assert (again.total, again.from_memory) == (3, 3)
    assert compiler.started == started


async def test_a_first_start_has_no_record_and_nothing_to_do(options, path):
    """It is no error that there is none."""
    async with ajit.open_runtime(**options) as rt:
        report = await rt.warmup(ajit.replay(path))

    assert (report.total, report.failures, report.unresolved) == (0, (), ())


async def test_what_was_needed_first_is_made_ready_first(options, path):
    """Not in the order of the lines."""
    lines = list(lines_of(saxpy(1), saxpy(2), saxpy(3)))
    write(path, *reversed(lines))
    names = []
    async with ajit.open_runtime(**{**options, "compile_slots": 1}) as rt:
        await rt.warmup(ajit.replay(path), on_progress=lambda event: names.append(event.key))
        expected = [(await rt.resolve(saxpy(n), arch=ARCH)).artifact.base for n in (1, 2, 3)]

    assert names == expected


async def test_lines_that_lead_to_nothing_are_reported_and_are_no_failures(options, path):
    """An unknown kind, a spec of another version, a source that compiles no more."""
    old = b'{"source":1}'
    identity = use_id("spec", "", ARCH, old)
    broken = encode_line(
        Use(kind="spec", id=identity, name="old", arch=ARCH, build=msgspec.Raw(old))
    )
    orphan = list(lines_of(saxpy(7)))[-1]
    write(
        path,
        *lines_of(SAXPY, SYNTAX_ERROR),
        *lines_of(b'{"n":1}', kind="strange"),
        broken,
        orphan.replace(b"spec 0", b"orphan"),
        b"0123456789abcdef {}\n",
    )
    async with ajit.open_runtime(**options) as rt:
        report = await rt.warmup(ajit.replay(path))

    assert (report.total, report.compiled, report.failures) == (2, 1, ())
    told = {(line.kind, line.name): line.reason for line in report.unresolved}
    assert "nothing here makes kernels of kind 'strange'" in told["strange", "strange 0"]
    assert "of no spec" in told["spec", "old"]
    assert "error:" in told["spec", "broken"]
    assert "damaged" in told["", ""]


async def test_a_missing_text_is_reported(options, path):
    """Its file was removed by hand."""
    write(path, list(lines_of(SAXPY))[-1])
    async with ajit.open_runtime(**options) as rt:
        report = await rt.warmup(ajit.replay(path))

    (line,) = report.unresolved
    assert "lacks the text" in line.reason


async def test_other_errors_of_a_replay_are_failures(options, path, compiler):
    """A compiler that crashes says nothing about the line."""
    write(path, *lines_of(SAXPY))
    compiler.die_by("SEGV")
    async with ajit.open_runtime(**options) as rt:
        report = await rt.warmup(ajit.replay(path))

    (failure,) = report.failures
    assert isinstance(failure.error, ajit.CompilerCrashed)
    assert failure.spec == SAXPY
    assert report.unresolved == ()


async def test_lines_of_other_archs_are_left_unless_there_are_no_others(with_device, path):
    """A record of several kinds of device; and a device that is new."""
    write(path, *lines_of(SAXPY), *lines_of(saxpy(1), arch="sm_90a"))
    async with ajit.open_runtime(**with_device) as rt:
        report = await rt.warmup(ajit.replay(path))
        assert (report.total, report.compiled, report.skipped) == (1, 1, 1)
        write(path, *lines_of(saxpy(1), arch="sm_90a"))
        report = await rt.warmup(ajit.replay(path))
        rt.kernel_nowait(saxpy(1))

    assert (report.total, report.compiled, report.skipped) == (1, 1, 0)


async def test_lines_of_another_kind_are_made_ready_by_who_knows_it(options, path, monkeypatch):
    """An adapter's; its failures are failures, and a SpecError is a line that leads to nothing."""
    monkeypatch.setattr(replaying, "_replayers", {})
    made = []

    async def replayer(kernels, use, texts, on_wait):
        if bytes(use.build) == b'{"n":2}':
            raise ajit.SpecError("no such function any more")
        made.append((bytes(use.build), texts[text_digest("int a;")], kernels.arch))
        return Ready("", "compiled")

    replaying.register_kind("mine", replayer)
    text = encode_line(Text(text_digest("int a;"), "int a;"))
    write(path, text, *lines_of(b'{"n":1}', b'{"n":2}', kind="mine"))
    async with ajit.open_runtime(**options) as rt:
        report = await rt.warmup(ajit.replay(path))

    assert made == [(b'{"n":1}', "int a;", "")]
    assert (report.compiled, len(report.unresolved), report.failures) == (1, 1, ())


async def test_a_record_that_others_may_write_to_is_refused(options, path, compiler):
    """What is in it would be compiled and loaded."""
    write(path, *lines_of(SAXPY)).chmod(0o666)
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.RecordError, match="other users may write"):
            await rt.warmup(ajit.replay(path))

    assert compiler.started == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"path": 3}, "takes the path"),
        ({"path": "x", "ranks": 0}, "ranks is 0"),
        ({"path": "x", "ranks": 2, "rank": 2}, "rank is 2"),
        ({"path": "x", "ranks": "2"}, "ranks is '2'"),
        ({"path": "x", "arch": "pentium"}, "pentium"),
    ],
)
async def test_what_cannot_be_meant_is_refused_at_once(arguments, error):
    """Before anything is read."""
    with pytest.raises(ajit.AjitError, match=error):
        ajit.replay(**arguments)


async def test_several_sets_of_ranks_are_refused(options, path):
    """A process is one rank."""
    async with ajit.open_runtime(**options) as rt:
        works = [ajit.replay(path, ranks=2, rank=0), ajit.replay(path, ranks=2, rank=1)]
        with pytest.raises(ajit.UsageError, match="one set of ranks"):
            await rt.warmup(works)
        with pytest.raises(ajit.SpecError, match=r"expected an ajit\.Spec"):
            await rt.warmup([ajit.replay(path), "saxpy"])


@pytest.mark.parametrize("cancelled", [False, True])
async def test_two_ranks_of_one_process_share_and_wait_for_each_other(
    options, path, compiler, cancelled
):
    """Each has everything when it returns; one that is cancelled is not waited for."""
    write(path, *lines_of(*(saxpy(n) for n in range(6))))
    reports = {}

    async def rank(number, scope):
        with scope:
            async with ajit.open_runtime(**options) as rt:
                reports[number] = await rt.warmup(ajit.replay(path, ranks=2, rank=number))

    if cancelled:
        compiler.hold()
    scopes = [anyio.CancelScope(), anyio.CancelScope()]
    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(rank, number, scopes[number])
        if cancelled:
            await compiler.wait_started(2)
            scopes[1].cancel()
            compiler.let_go()

    made = {number: (report.share, report.compiled) for number, report in reports.items()}
    assert made == ({0: (3, 6)} if cancelled else {0: (3, 3), 1: (3, 3)})
    assert all(report.total == 6 for report in reports.values())
