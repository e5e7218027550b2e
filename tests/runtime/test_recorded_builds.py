"""Builds in records: replayed as they were, and never by the word of who must not be trusted."""

from __future__ import annotations

import os
import shutil
import stat

import anyio
import msgspec
import pytest

import ajit
from ajit._core.build_form import build_of, written_build
from ajit._core.record import Again, Text, Use, encode_line, use_id
from ajit._core.record_seal import sealed
from ajit._core.seal import HmacKey, Trust
from ajit._runtime import from_thread
from ajit._runtime.record_files import read_record
from tests.runtime.builds import ScriptedBuild
from tests.runtime.sources import ARCH, SAXPY
from tests.runtime.test_freeze import until

pytestmark = [pytest.mark.anyio, pytest.mark.allow_blocking("the tests read the record")]

SECRET = {"hmac_key": "a secret that only these servers know"}


@pytest.fixture
def scripted(tmp_path):
    """A build that is counted."""
    return ScriptedBuild(tmp_path / "scripted")


@pytest.fixture
def options(options, tmp_path):
    """The same, with the views in the test's own folder."""
    return {**options, "views_dir": str(tmp_path / "views")}


@pytest.fixture
def path(tmp_path):
    """Where the record is; not there yet."""
    return tmp_path / "used.ajit"


def lines_of(build, trust=Trust()):  # noqa: B008 - it is never changed
    """The lines of a record of one build."""
    data, texts = written_build(build)
    use = Use(kind="build", id=use_id("build", "", "", data), name="b", build=msgspec.Raw(data))
    texts_of = [encode_line(Text(digest, text)) for digest, text in texts.items()]
    return [*texts_of, encode_line(sealed(use, trust))]


def write(path, lines, mode=0o600):
    """Write a record into one file."""
    path.write_bytes(b"".join(lines))
    path.chmod(mode)
    return path


async def replayed(options, path, **more):
    """What a fresh runtime makes of a record."""
    async with ajit.open_runtime(**{**options, **more}) as rt:
        return await rt.warmup(ajit.replay(path))


BUILDS = [
    ajit.Build(
        "all of it",
        ajit.Command(
            ["{dir:here}/sh", "-c", "cat a b c d > out"],
            env={"A": "{folder}", "B": "é"},
            files={"a": "text\n", "b": b"\xff\x00"},
            templates={"c": "{jobs}"},
            copies={"d": "{dir:here}/d"},
        ),
        ["out", "more/**"],
        key_parts={"version": "1"},
        dirs={"here": "/opt/here"},
        jobs=0,
        timeout_seconds=3.5,
        limit_bytes=1000,
        extra_digest="x",
    ),
    ajit.Build("call", ajit.Call("json:dumps", {"obj": [1, b"b", {"a": None}]}), ["**"]),
]


@pytest.mark.parametrize("build", BUILDS, ids=["command", "call"])
def test_a_build_is_the_same_after_it_was_written_and_read(build):
    """Each of its fields; the same build has the same bytes."""
    data, texts = written_build(build)

    assert build_of(data, texts) == build
    assert written_build(build_of(data, texts)) == (data, texts)
    assert msgspec.json.decode(data)


def test_what_is_no_build_is_a_spec_error():
    """A text that is gone, a line of another version, nothing to run."""
    data, _ = written_build(BUILDS[0])
    for bad in (data, b'{"name":"x","outputs":["a"]}', b'{"n":1}', b'{"name":"x","outputs":[]}'):
        with pytest.raises(ajit.SpecError):
            build_of(bad, {})


async def test_a_build_that_was_used_is_ready_at_the_next_start(options, path, scripted):
    """On an empty cache it is built before it is asked for; its view is made, too."""
    build = scripted.build(files={"a.txt": "a"})
    for _ in range(2):
        async with ajit.open_runtime(**options, record=path) as rt:
            await rt.build(build)
            await rt.build(build, background=True)
    (use,) = read_record(path).finished()
    shutil.rmtree(options["cache_dir"])

    async with ajit.open_runtime(**options) as rt:
        report = await rt.warmup(ajit.replay(path))
        rt.freeze("error")
        shutil.rmtree(os.path.join(options["cache_dir"], "entries"))  # noqa: PTH118 - as it is given
        views = list((path.parent / "views").glob("*/*/*/files/out.txt"))

    assert (use.kind, use.peer, use.count, use.seals) == ("build", "", 2, ())
    assert (report.total, report.compiled, report.unresolved) == (1, 1, ())
    assert len(views) == 1
    assert scripted.started == 2


async def test_a_call_is_replayed_by_its_name_and_arguments(options, path):
    """In a process of its own, as it was run; one whose module is gone leads to nothing."""
    good = ajit.Build("good", ajit.Call("tests.runtime.builds:write_text", {"text": "x"}), ["out"])
    gone = ajit.Build("gone", ajit.Call("no.such_module:function"), ["out"])
    write(path, [*lines_of(good), *lines_of(gone)])
    report = await replayed(options, path)

    assert (report.total, report.compiled, report.failures) == (2, 1, ())
    assert [line.kind for line in report.unresolved] == ["build"]


async def test_a_build_whose_copied_file_is_gone_leads_to_nothing(
    options, path, scripted, tmp_path
):
    """A generated source in a folder that was removed: nothing is run, and nothing has failed."""
    command = scripted.build().run
    copying = ajit.Command(command.argv, env=command.env, copies={"a": "{dir:here}/a"})
    build = ajit.Build("copying", copying, ["out.txt"], dirs={"here": tmp_path})
    write(path, lines_of(build))
    gone = await replayed(options, path)
    (tmp_path / "a").write_text("a")
    there = await replayed(options, path)

    assert "which is not there any more" in gone.unresolved[0].reason
    assert (gone.failures, there.compiled, scripted.started) == ((), 1, 1)


async def test_builds_of_another_device_are_left(with_device, path, scripted):
    """What was recorded without a device is for any."""
    async with ajit.open_runtime(**with_device, record=path) as rt:
        await rt.build(scripted.build())
    (use,) = read_record(path).finished()
    assert use.arch == ARCH

    for arch in ("sm_90a", ""):
        data, _ = written_build(scripted.build(env={"OTHER": f"x{arch}"}))
        other = Use(
            kind="build", id=use_id("build", "", arch, data), arch=arch, build=msgspec.Raw(data)
        )
        (path / f"{arch}.lines").write_bytes(encode_line(other))
    async with ajit.open_runtime(**with_device) as rt:
        report = await rt.warmup(ajit.replay(path))

    assert (report.total, report.skipped) == (2, 1)


async def test_nothing_of_a_record_that_others_may_write_to_is_run(options, path, scripted):
    """Not even where the cache may be anybody's: what is compiled there is no command."""
    write(path, lines_of(scripted.build()), 0o666)
    with pytest.raises(ajit.RecordError, match="other users may write"):
        await replayed(options, path)
    report = await replayed(options, path, allow_unsafe_cache=True)

    assert scripted.started == 0
    (line,) = report.unresolved
    assert "what is run" in line.reason


async def test_where_seals_are_asked_for_a_build_without_one_is_not_run(options, path, scripted):
    """Nor one with the seal of another secret, of another build, or of something else."""
    build, other = scripted.build(), scripted.build(env={"OTHER": "1"})
    secret = Trust("hmac", [HmacKey(SECRET["hmac_key"].encode())])
    stolen = msgspec.json.decode(lines_of(other, secret)[-1].partition(b" ")[2])["seals"]
    data, _ = written_build(build)
    use = Use(kind="build", id=use_id("build", "", "", data), build=msgspec.Raw(data))
    for seals in [(), tuple(stolen), ("not base64!",)]:
        write(path, [encode_line(msgspec.structs.replace(use, seals=seals))])
        report = await replayed(options, path, **SECRET)
        assert "only with a seal" in report.unresolved[0].reason
    write(path, lines_of(build, Trust("hmac", [HmacKey(b"another secret of theirs")])))
    report = await replayed(options, path, **SECRET)
    assert "not trusted here" in report.unresolved[0].reason
    assert scripted.started == 0

    write(path, lines_of(build, secret))
    report = await replayed(options, path, **SECRET)
    assert (report.compiled, report.unresolved) == (1, ())
    assert scripted.started == 1


async def test_a_line_cannot_stand_for_another_build(options, path, scripted):
    """An id that is not that of its build makes it a damaged line."""
    data, _ = written_build(scripted.build())
    safe = use_id("build", "", "", written_build(scripted.build(env={"SAFE": "1"}))[0])
    write(path, [encode_line(Use(kind="build", id=safe, build=msgspec.Raw(data)))])
    report = await replayed(options, path)

    assert (report.total, scripted.started) == (0, 0)
    assert "damaged" in report.unresolved[0].reason


async def test_what_is_recorded_is_sealed_and_sealed_anew_with_another_secret(
    options, path, scripted
):
    """A secret that was changed does not make a record useless; counts go on."""
    for key in (SECRET, SECRET, {"hmac_key": "the next secret of these servers"}):
        async with ajit.open_runtime(**options, **key, record=path) as rt:
            await rt.build(scripted.build())
            await rt.compile(SAXPY, arch=ARCH)
    spec, build = sorted(read_record(path).finished(), key=lambda use: use.kind, reverse=True)

    assert (len(build.seals), build.count) == (2, 3)
    assert (spec.seals, spec.count) == ((), 3)
    for key in (SECRET, {"hmac_key": "the next secret of these servers"}):
        assert (await replayed(options, path, **key)).unresolved == ()


async def test_a_record_of_a_build_is_written_as_others_are(options, path, scripted):
    """In the folder of mode 0700; a second start adds a count and no text."""
    build = scripted.build(files={"a.txt": "text " * 1000})
    for _ in range(2):
        async with ajit.open_runtime(**options, record=path) as rt:
            await rt.build(build)

    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert sorted(file.stat().st_size < 500 for file in path.iterdir()) == [False, True]


async def test_ranks_share_builds_as_they_share_kernels(options, path, scripted):
    """Each does a part, and has all of them at the end."""
    builds = [scripted.build(env={"N": str(n)}) for n in range(4)]
    write(path, [line for build in builds for line in lines_of(build)])
    reports = {}

    async def rank(number):
        async with ajit.open_runtime(**options) as rt:
            reports[number] = await rt.warmup(ajit.replay(path, ranks=2, rank=number))

    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(rank, number)

    assert [(reports[n].total, reports[n].share) for n in range(2)] == [(4, 2), (4, 2)]
    assert scripted.started == 4


async def test_late_builds_are_told_counted_and_refused(options, scripted):
    """With who asked; what is warm is served."""
    seen = []
    async with ajit.open_runtime(**options, subscribers=[seen.append]) as rt:
        await rt.build(scripted.build())
        rt.freeze()
        await rt.build(scripted.build())
        assert rt.statistics().late == 0
        late = await rt.build(scripted.build(env={"N": "1"}))
        (event,) = await until(seen)
        rt.freeze("error")
        with pytest.raises(ajit.CompileForbidden) as caught:
            await rt.build(scripted.build(env={"N": "2"}))
        counted = rt.statistics().late
        shown = str(rt.statistics())

    assert (event.name, event.key) == ("scripted", late.base_key)
    assert event.differences == (("variable N", None, "1"),)
    assert "test_late_builds" in event.stack[-1]
    assert "test_late_builds" in caught.value.stack[-1]
    assert counted == 2
    assert "late 2" in shown
    assert scripted.started == 2


async def test_a_late_build_of_a_thread_tells_where_that_has_asked(options, scripted):
    """As an adapter asks; with the peer's name, where the build has it in its key."""
    seen = []
    build = scripted.build(key_parts={"peer": "triton 3.9.0"})
    async with ajit.open_runtime(**options, subscribers=[seen.append]) as rt:
        rt.freeze()

        def the_launch():
            from_thread.call(rt, lambda runtime: runtime.build(build))

        await anyio.to_thread.run_sync(the_launch)
        (event,) = await until(seen)

    assert event.peer == "triton"
    assert any("the_launch" in frame for frame in event.stack)


def test_counts_of_again_need_no_seal(path, scripted):
    """To add them changes nothing that is run."""
    lines = lines_of(scripted.build())
    use = read_record(write(path, lines)).finished()[0]
    write(path, [*lines, encode_line(Again(id=use.id, count=4))])

    assert read_record(path).finished()[0].count == 5
