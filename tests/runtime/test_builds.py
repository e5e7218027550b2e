"""A build: run once, kept under what it read, and its files put where they can be loaded."""

from __future__ import annotations

import os
import stat

import anyio
import psutil
import pytest

import ajit
from ajit._compile.worker import landlock
from tests.runtime.builds import ScriptedBuild

pytestmark = pytest.mark.anyio


@pytest.fixture
def scripted(tmp_path):
    """A build that is counted, and held when the test says so."""
    return ScriptedBuild(tmp_path / "scripted")


@pytest.fixture
def options(options, tmp_path):
    """The same, with the views in the test's own folder."""
    return {**options, "views_dir": str(tmp_path / "views")}


def text_of(folder, name="out.txt"):
    """What a file of a view has."""
    return (folder / name).read_text().strip()


def lives(pid):
    """Whether a process has not ended. One that was not reaped yet has."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def built(options, *builds, **arguments):
    """Build in one runtime; return tier, key and text of the first file of each."""
    answers = []
    async with ajit.open_runtime(**options) as runtime:
        for build in builds:
            bundle = await runtime.build(build, **arguments)
            folder = await bundle.materialize()
            answers.append((bundle.tier, bundle.key, text_of(folder, bundle.files[0].path)))
    return answers


async def test_command_runs_once_and_its_files_are_there(options, scripted):
    """The second request finds the bundle on disk, in this runtime and in the next one."""
    build = scripted.build(
        "mkdir bin; echo one > bin/a.txt; echo two > run; chmod +x run", ["bin/*", "run"]
    )

    async with ajit.open_runtime(**options) as runtime:
        first = await runtime.build(build)
        folder = await first.materialize()
        second = await runtime.build(build)
        again = await second.materialize()
    ((tier, key, _),) = await built(options, build)

    assert (first.tier, second.tier, tier) == ("compiled", "disk", "disk")
    assert first.key == second.key == key
    assert [file.path for file in first.files] == ["bin/a.txt", "run"]
    assert folder == again
    assert text_of(folder, "bin/a.txt") == "one"
    assert stat.S_IMODE((folder / "bin/a.txt").stat().st_mode) == 0o400
    assert stat.S_IMODE((folder / "run").stat().st_mode) == 0o500
    assert scripted.started == 1


async def test_many_requests_of_one_moment_share_one_run(options, scripted):
    """They get the same bundle, and one view."""
    folders = []

    async def ask(runtime):
        bundle = await runtime.build(scripted.build())
        folders.append(await bundle.materialize())

    async with ajit.open_runtime(**options) as runtime, anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(ask, runtime)

    assert len(folders) == 8
    assert len(set(folders)) == 1
    assert scripted.started == 1


async def test_what_a_build_reads_is_part_of_its_key(options, scripted, tmp_path):
    """An edit runs it again; the former text finds the former bundle."""
    read = tmp_path / "read.txt"
    build = scripted.build(f'cat "{read}" > out.txt')
    answers = []
    for text in ("one", "two", "one"):
        read.write_text(text)
        os.utime(read, (1, 1))  # written long ago, so that it is certain what was read
        await anyio.sleep(0.02)  # past the tick in which its change was noted
        answers += await built(options, build)

    assert [tier for tier, _, _ in answers] == ["compiled", "compiled", "disk"]
    assert [text for _, _, text in answers] == ["one", "two", "one"]
    assert answers[0][1] == answers[2][1] != answers[1][1]
    assert scripted.started == 2


async def test_file_that_appears_where_one_was_missing_runs_it_again(options, scripted, tmp_path):
    """What a build looked for in vain counts as well."""
    missing = tmp_path / "config"
    build = scripted.build(f'[ -e "{missing}" ] && echo with > out.txt || echo without > out.txt')

    before = await built(options, build)
    missing.touch()
    after = await built(options, build)

    assert [before[0][2], after[0][2]] == ["without", "with"]
    assert after[0][0] == "compiled"


async def test_directories_may_lie_elsewhere(options, scripted, tmp_path):
    """Two installations with the same files share a bundle; with another file they do not."""
    answers = []
    for place, text in (("here", "same"), ("there", "same"), ("elsewhere", "other")):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "x.h").write_text(text)
        os.utime(folder / "x.h", (1, 1))
        await anyio.sleep(0.02)
        env = {"FROM": "{dir:package}"}
        script = 'cat "$FROM/x.h" > out.txt; echo "took $FROM/x.h"'
        build = scripted.build(script, env=env, dirs={"package": folder})
        answers += await built(options, build)
        async with ajit.open_runtime(**options) as runtime:
            assert (await runtime.build(build)).log == "took {dir:package}/x.h"

    assert [tier for tier, _, _ in answers] == ["compiled", "disk", "compiled"]
    assert answers[0][1] == answers[1][1] != answers[2][1]


async def test_directories_in_each_other_are_told_from_others(options, scripted, tmp_path):
    """A file is called by the inner directory, and was found from the outer one."""
    for name, text in (("a", "one"), ("b", "two"), ("c", "one")):
        (tmp_path / name / "inc").mkdir(parents=True)
        (tmp_path / name / "inc" / "x").write_text(text)
    made = []
    async with ajit.open_runtime(**options) as rt:
        for outer, inner in (("a", "a"), ("b", "c")):
            dirs = {"outer": tmp_path / outer, "inner": tmp_path / inner / "inc"}
            env = {"FROM": "{dir:outer}"}
            build = scripted.build('cat "$FROM/inc/x" > out.txt', env=env, dirs=dirs)
            bundle = await rt.build(build)
            made.append((await bundle.materialize() / "out.txt").read_text())

    assert made == ["one", "two"]


async def test_output_that_holds_a_directory_is_found_only_where_it_is_the_same(
    options, scripted, tmp_path
):
    """As with __FILE__ in a library: what has the path of one place is none for another."""
    answers = []
    for place in ("here", "there", "here"):
        folder = tmp_path / place
        folder.mkdir(exist_ok=True)
        env = {"FROM": "{dir:package}"}
        build = scripted.build('echo "$FROM" > out.txt', env=env, dirs={"package": folder})
        answers += await built(options, build)

    assert [tier for tier, _, _ in answers] == ["compiled", "compiled", "disk"]
    assert [text for _, _, text in answers] == [
        str(tmp_path / p) for p in ("here", "there", "here")
    ]


async def test_private_folder_leaves_no_trace(options, scripted):
    """Two runs of one build make the same bytes although each has a folder of its own."""
    build = scripted.build("pwd > out.txt; head -c 3000000 /dev/zero >> out.txt; pwd >> out.txt")

    async with ajit.open_runtime(**options) as runtime:
        first = await runtime.build(build)
        second = await runtime.build(build, recache=True)

    assert scripted.started == 2
    assert first.files == second.files


async def test_environment_of_the_server_is_not_there(options, scripted, monkeypatch):
    """A variable that was not said cannot decide a result; what is said is there."""
    monkeypatch.setenv("SECRET", "of the server")
    build = scripted.build('echo "$SECRET-$SAID-$HOME" > out.txt', env={"SAID": "yes"})
    ((_, _, text),) = await built(options, build)

    assert text.startswith("-yes-/")
    assert os.environ["HOME"] not in text


async def test_jobs_are_the_slots_that_were_free(options, scripted):
    """A build that can use all of them is told how many it has."""
    options |= {"compile_slots": 3, "compile_memory_estimate_bytes": 0}
    argv = ["sh", "-c", "echo {jobs} > out.txt"]
    builds = [ajit.Build("n", ajit.Command(argv), ["out.txt"], jobs=jobs) for jobs in (0, 2, 1)]
    answers = [text for build in builds for _, _, text in await built(options, build, recache=True)]

    ((_, _, limited),) = await built({**options, "node_compile_slots": 1}, builds[0], recache=True)

    assert answers == ["3", "2", "1"]
    assert limited == "1"


async def test_build_with_all_slots_keeps_others_waiting(options, scripted):
    """A ninja of n jobs has n slots: what comes meanwhile is queued until it ends."""
    options |= {"compile_slots": 2, "compile_memory_estimate_bytes": 0}
    scripted.hold()
    async with ajit.open_runtime(**options) as runtime, anyio.create_task_group() as group:
        group.start_soon(runtime.build, scripted.build(jobs=2))
        await scripted.wait_started()
        group.start_soon(runtime.build, scripted.build("echo other > out.txt"))
        with anyio.fail_after(60):
            while runtime.statistics().pool.held_back != "slots":  # noqa: ASYNC110  # a thread's
                await anyio.sleep(0.005)
        queued = runtime.statistics().pool.queued
        scripted.let_go()

    assert queued == 1
    assert scripted.started == 2


async def test_failing_build_says_its_first_error_first(options, scripted):
    """The log begins with what looks like an error; it is run once, and not again for a while."""
    script = (
        "for i in 1 2 3 4 5 6 7 8 9; do echo noise $i; done; echo 'x.cu(3): error: no' >&2; exit 3"
    )
    async with ajit.open_runtime(**options) as runtime:
        with pytest.raises(ajit.CompileError) as first:
            await runtime.build(scripted.build(script))
        with pytest.raises(ajit.CompileError) as second:
            await runtime.build(scripted.build(script))

    assert first.value.log.splitlines()[0] == "x.cu(3): error: no"
    assert "noise 9" in first.value.log
    assert str(second.value).startswith("compile failed for scripted")
    assert second.value.log == first.value.log
    assert scripted.started == 1


@pytest.mark.parametrize(
    ("script", "says"),
    [("true", "left no file that matches 'out.txt'"), ("no-such-program", "not found")],
)
async def test_build_without_its_outputs_fails(options, scripted, script, says):
    """Also where the command itself says that it succeeded."""
    async with ajit.open_runtime(**options) as runtime:
        with pytest.raises(ajit.CompileError, match=says):
            await runtime.build(scripted.build(script))


async def test_output_whose_name_is_no_text_fails(options, scripted):
    """Linux lets a name be any bytes; a bundle has texts."""
    build = scripted.build("echo x > \"$(printf 'a\\377.txt')\"", outputs=["*.txt"])
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.CompileError, match="is no text"):
            await rt.build(build)


async def test_program_that_is_not_there_fails(options):
    """With its name."""
    async with ajit.open_runtime(**options) as runtime:
        with pytest.raises(ajit.CompileError, match="no-such-program"):
            await runtime.build(ajit.Build("x", ajit.Command(["no-such-program"]), ["*"]))


async def test_build_that_is_killed_leaves_no_record(options, scripted):
    """Trying again is safe, and runs it again."""
    async with ajit.open_runtime(**options) as runtime:
        with pytest.raises(ajit.CompilerCrashed):
            await runtime.build(scripted.build("kill -9 $$"))
        with pytest.raises(ajit.CompilerCrashed):
            await runtime.build(scripted.build("kill -9 $$"))

    assert scripted.started == 2


async def test_build_above_its_limits_is_an_error(options, scripted):
    """Of size and of time, each its own error; the group is killed."""
    async with ajit.open_runtime(**options) as runtime:
        with pytest.raises(ajit.CompileOutputExceeded, match="the limit is 10 bytes"):
            await runtime.build(scripted.build("echo 0123456789 > out.txt", limit_bytes=10))
        with pytest.raises(ajit.CompileTimeout, match=r"after 0\.5 s"):
            await runtime.build(scripted.build("sleep 600", timeout_seconds=0.5))


async def test_cancelled_build_leaves_no_process_and_no_folder(options, scripted, nothing_left):
    """The whole process group is gone when no task waits any more, if the setting says so."""
    scripted.hold()
    async with ajit.open_runtime(**options, abandoned="cancel") as runtime:
        async with anyio.create_task_group() as group:
            group.start_soon(runtime.build, scripted.build())
            await scripted.wait_started()
            group.cancel_scope.cancel()
        with anyio.fail_after(60):
            while lives(scripted.pids[0]):  # noqa: ASYNC110  # it is another process
                await anyio.sleep(0.01)
        await anyio.to_thread.run_sync(lambda: nothing_left(open_runtime=True))
        scripted.let_go()
        bundle = await runtime.build(scripted.build())

    assert bundle.tier == "compiled"
    assert scripted.started == 2


async def test_closing_ends_a_build(options, scripted):
    """The runtime closes within seconds, and its tasks get RuntimeClosed."""
    scripted.hold()
    ended = []

    async def ask(runtime):
        try:
            await runtime.build(scripted.build())
        except ajit.RuntimeClosed as exc:
            ended.append(exc)

    async with anyio.create_task_group() as group, ajit.open_runtime(**options) as runtime:
        group.start_soon(ask, runtime)
        await scripted.wait_started()

    assert len(ended) == 1
    assert not lives(scripted.pids[0])


async def test_reads_that_cannot_be_seen_are_not_published(options, scripted):
    """A program that drops the environment is not recorded; only an extra digest vouches for it."""
    script = "env -i sh -c 'echo made > out.txt'"
    with pytest.warns(ajit.AjitWarning, match="cannot be seen"):
        unseen = [await built(options, scripted.build(script)) for _ in range(2)]
    vouched = [await built(options, scripted.build(script, extra_digest="1")) for _ in range(2)]

    assert [answers[0][0] for answers in unseen] == ["compiled", "compiled"]
    assert [answers[0][0] for answers in vouched] == ["compiled", "disk"]
    assert unseen[0][0][2] == "made"


async def test_cache_that_cannot_be_written_gives_a_bundle_all_the_same(
    options, scripted, tmp_path
):
    """It lies in no cache, and its files can be used."""
    (tmp_path / "file").touch()
    options["cache_dir"] = "/proc/no-cache"
    with pytest.warns(ajit.AjitWarning, match="cannot be written"):
        ((tier, _, text),) = await built(options, scripted.build())

    assert (tier, text) == ("compiled", "made")


async def test_frozen_runtime_runs_nothing(options, scripted):
    """A bundle that is cached is there; another is an error that names the build."""
    await built(options, scripted.build())
    async with ajit.open_runtime(**options, mode="frozen") as runtime:
        bundle = await runtime.build(scripted.build())
        with pytest.raises(ajit.CompileForbidden, match="scripted"):
            await runtime.build(scripted.build("echo other > out.txt"))

    assert bundle.tier == "disk"
    assert scripted.started == 1


async def test_events_tell_of_a_build(options, scripted):
    """What is run, and how the request was answered."""
    seen = []
    async with ajit.open_runtime(**options, subscribers=[seen.append]) as runtime:
        bundle = await runtime.build(scripted.build())

    # Which tells that it goes on, where it takes above a second.
    steps = [event for event in seen if not isinstance(event, ajit.events.CompileRunning)]
    assert [type(event).__name__ for event in steps] == [
        "KeyMade", "CompileStarted", "CompileFinished", "BundleReady",
    ]  # fmt: skip
    assert steps[1].compiler == "build sh"
    assert seen[-1].entry_key == bundle.key
    assert seen[-1].size_bytes == bundle.size_bytes == 5


def test_blocking_runtime_builds_as_well(options, scripted):
    """From a thread without a loop."""
    with ajit.open_blocking_runtime(**options) as runtime:
        bundle = runtime.build(scripted.build())
        folder = runtime.materialize(bundle)

    assert text_of(folder) == "made"


async def test_library_that_a_program_is_linked_with_is_read(options, scripted, tmp_path):
    """The dynamic loader opens it, unseen; another library at its place runs the build again."""
    program = await made(
        options,
        "cc -o program main.c -L. -lanswer && rm libanswer.so",
        "program",
        {"main.c": '#include <stdio.h>\nint answer(void);int main(void){printf("%d",answer());}'},
        before="cc -shared -o libanswer.so answer.c",
        more={"answer.c": "int answer(void) { return 0; }"},
    )
    (tmp_path / "program").write_bytes(program)
    (tmp_path / "program").chmod(0o755)
    script = f'LD_LIBRARY_PATH="{tmp_path}/lib" "{tmp_path}/program" > out.txt'
    (tmp_path / "lib").mkdir()
    answers = []
    for answer in (1, 2):
        source = {"answer.c": f"int answer(void) {{ return {answer}; }}"}
        library = await made(options, "cc -shared -o a.so answer.c", "a.so", source)
        (tmp_path / "fresh").write_bytes(library)
        (tmp_path / "fresh").rename(tmp_path / "lib" / "libanswer.so")
        await anyio.sleep(0.02)  # past the tick in which its change was noted
        answers += await built(options, scripted.build(script))

    assert [(tier, text) for tier, _, text in answers] == [("compiled", "1"), ("compiled", "2")]


async def made(options, script, output, files, before="true", more=None):
    """Build a file in a cache, and return its bytes."""
    command = ajit.Command(
        ["sh", "-e", "-c", f"{before}; {script}"], files={**files, **(more or {})}
    )
    async with ajit.open_runtime(**options) as runtime:
        bundle = await runtime.build(ajit.Build(output, command, [output]))
        return (await bundle.materialize() / output).read_bytes()


async def test_program_that_comes_first_on_path_runs_it_again(options, tmp_path, monkeypatch):
    """A build names a program, and means the one that PATH has first."""
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/first:{tmp_path}/second:{os.environ['PATH']}")
    build = ajit.Build("tool", ajit.Command(["tool"]), ["out.txt"])
    answers = []
    for place in ("second", "first"):
        (tmp_path / place / "tool").write_text(f"#!/bin/sh\necho {place} > out.txt\n")
        (tmp_path / place / "tool").chmod(0o755)
        await anyio.sleep(0.02)  # past the tick in which its change was noted
        answers += await built(options, build)

    assert [(tier, text) for tier, _, text in answers] == [
        ("compiled", "second"),
        ("compiled", "first"),
    ]


@pytest.mark.parametrize(
    "script", ["tool > out.txt", "command -v tool > out.txt || echo none > out.txt"]
)
async def test_program_that_a_shell_seeks_runs_it_again(options, tmp_path, monkeypatch, script):
    """A shell starts what it has found by its path; what it found in vain counts as well."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    monkeypatch.setenv("PATH", f"{first}:{second}:{os.environ['PATH']}")
    build = ajit.Build("seeks", ajit.Command(["sh", "-c", script]), ["out.txt"])
    _write_tool(second if script.startswith("tool") else tmp_path, "one")
    async with ajit.open_runtime(**options) as rt:
        before = text_of(await (await rt.build(build)).materialize())
    await anyio.sleep(0.02)  # past the tick in which its change was noted
    _write_tool(first, "two")
    async with ajit.open_runtime(**options) as rt:
        bundle = await rt.build(build)
        after = text_of(await bundle.materialize())

    assert bundle.tier == "compiled"
    assert after != before


def _write_tool(folder, says):
    path = folder / "tool"
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)


async def test_bundle_of_a_closed_runtime_says_so(options, scripted):
    """A bundle belongs to its runtime; the path that it gave stays."""
    async with ajit.open_runtime(**options) as runtime:
        bundle = await runtime.build(scripted.build())
        folder = await bundle.materialize()
    with pytest.raises(ajit.RuntimeClosed):
        await bundle.materialize()

    assert text_of(folder) == "made"


@pytest.mark.skipif(bool(landlock.missing()), reason="this machine has no landlock")
async def test_sandbox_confines_a_build(options, scripted, tmp_path):
    """It reads what it names and its own files, and nothing else of the user."""
    (tmp_path / "secret").write_text("of the user")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "x.h").write_text("x")
    argv = ["sh", "-c", "cat $FROM/x.h > out.txt; cat $SECRET >> out.txt; echo done >> out.txt"]
    env = {"FROM": "{dir:package}", "SECRET": str(tmp_path / "secret")}
    command = ajit.Command(argv, env=env)
    build = ajit.Build("x", command, ["out.txt"], dirs={"package": tmp_path / "package"})
    with pytest.warns(ajit.AjitWarning, match="could not open"):
        ((_, _, text),) = await built({**options, "sandbox": "landlock"}, build)
    call = ajit.Call("json:dump", {"obj": 1, "fp": None})
    async with ajit.open_runtime(**{**options, "sandbox": "landlock"}) as runtime:
        with pytest.raises(ajit.CompileError, match="has no attribute 'write'"):
            await runtime.build(ajit.Build("y", call, ["out.txt"]))

    assert text == "xdone"
