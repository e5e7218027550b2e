"""Triton through ajit: hits are Triton's kernels, misses are compiled once, errors are shared."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

import ajit
import ajit.integrations
from ajit._runtime.record_files import read_record
from ajit.integrations import triton as adapter
from ajit.integrations._triton_errors import as_triton_raises, log_of, shared_log

triton = pytest.importorskip("triton", reason="Triton is not installed: make integrations")

from triton.backends.compiler import GPUTarget  # noqa: E402  # only where it is installed
from triton.compiler import ASTSource  # noqa: E402  # likewise
from triton.compiler.errors import CompileTimeAssertionFailure  # noqa: E402  # likewise

from tests.integrations import triton_kernels as kernels  # noqa: E402  # likewise

if TYPE_CHECKING:
    from pathlib import Path

TARGET = GPUTarget("cuda", 90, 32)
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")


@pytest.fixture(autouse=True)
def tritons_own_cache(tmp_path: Path) -> Path:
    """A cache directory of Triton's own, empty."""
    folder = tmp_path / "triton"
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(folder)
        yield folder


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each kernel that Triton really compiles, as it begins."""
    names: list[str] = []
    make_ir = ASTSource.make_ir

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        names.append(self.name)
        return make_ir(self, *args, **kwargs)

    monkeypatch.setattr(ASTSource, "make_ir", noted)
    return names


def compile_twice(block: int = 128, **options: Any) -> Any:
    """Compile the good kernel."""
    src = ASTSource(kernels.twice, kernels.GOOD, {"BLOCK": block})
    return triton.compile(src, target=TARGET, options=options)


def compile_refused() -> Any:
    """Compile the one that cannot be compiled."""
    return triton.compile(ASTSource(kernels.refuses, kernels.BAD, {"SIZE": 1}), target=TARGET)


def test_what_is_used_is_recorded(options: dict[str, Any], tmp_path: Path) -> None:
    """With its name, arch and peer; the fingerprint of Triton is no kernel."""
    with (
        ajit.open_blocking_runtime(record=str(tmp_path / "used"), **options) as rt,
        ajit.integrations.install("triton", runtime=rt),
    ):
        compile_twice()
        compile_twice()
    record = read_record(tmp_path / "used", allow_unsafe=False)

    assert [(use.peer, use.name, use.arch, use.count) for use in record.finished()] == [
        ("triton", "triton twice", "sm_90a", 2)
    ]


def record_and_replay(
    options: dict[str, Any], tmp_path: Path, make: Any, between: Any, **later: Any
) -> Any:
    """Use a kernel; return the report of a start with another cache, after which it is used."""
    record = str(tmp_path / "used")
    with (
        ajit.open_blocking_runtime(record=record, **options) as rt,
        ajit.integrations.install("triton", runtime=rt),
    ):
        make()
    between()
    options = options | {"cache_dir": str(tmp_path / "another"), **later}
    with (
        ajit.open_blocking_runtime(**options) as rt,
        ajit.integrations.install("triton", runtime=rt),
    ):
        report = rt.warmup(ajit.replay(record))
        make()
    return report


def compile_mapped() -> Any:
    """Compile an autotuned function, with a function, a type and a tuple as arguments."""
    signature = {"x": "*fp32", **dict.fromkeys(("FN", "TYPE", "SHAPE"), "constexpr")}
    values = {"FN": kernels.plus_one, "TYPE": triton.language.float32, "SHAPE": (128,)}
    attrs = {(0,): [["tt.divisibility", 16]]}
    src = ASTSource(kernels.mapped.fn, signature, values, attrs)
    backend = triton.compiler.make_backend(TARGET)
    # As a launch gives them: all, with the directories of this machine.
    launched = vars(backend.parse_options({"num_warps": 2}))
    return triton.compile(src, target=TARGET, options=launched)


@pytest.mark.parametrize("make", [compile_twice, compile_mapped])
def test_a_record_is_replayed_where_the_cache_has_it_no_more(
    options: dict[str, Any], tmp_path: Path, compiled: list[str], make: Any
) -> None:
    """The very kernel is compiled again, so that nothing is left to do."""

    def forget() -> None:
        compiled.clear()
        shutil.rmtree(tmp_path / "triton")

    report = record_and_replay(options, tmp_path, make, forget)

    assert (report.unresolved, report.failures) == ((), ())
    assert len(compiled) == 1, "by the replay alone"


def test_a_kernel_whose_source_was_edited_is_compiled_as_it_is_now(
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled: list[str],
) -> None:
    """The old one is asked for by nobody."""

    def edit() -> None:
        source = kernels.twice.src.replace("2.0", "3.0")
        monkeypatch.setattr(kernels.twice, "_src", source)
        monkeypatch.setattr(kernels.twice, "hash", None)
        compiled.clear()

    report = record_and_replay(options, tmp_path, compile_twice, edit)

    assert (report.unresolved, report.failures) == ((), ())
    assert len(compiled) == 1, "by the replay alone"


@pytest.mark.parametrize("what", ["no module", "no function", "not there", "a function within"])
def test_what_leads_to_no_kernel_any_more_is_unresolved(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """And no failure."""
    terms: Any = (kernels.twice, kernels.GOOD, {"BLOCK": 128})
    if what == "a function within":
        terms = (kernels.made_here(), {"x": "*fp32"})

    def make() -> Any:
        return triton.compile(ASTSource(*terms), target=TARGET)

    def change() -> None:
        if what == "no module":
            monkeypatch.setitem(sys.modules, kernels.__name__, None)
        elif what == "no function":
            monkeypatch.setattr(kernels, "twice", None)

    if what == "not there":
        monkeypatch.setattr(adapter, "register_remaker", lambda *_: lambda: None)
    report = record_and_replay(options, tmp_path, make, change)

    (line,) = report.unresolved
    assert not report.failures
    assert {
        "no module": "cannot be imported",
        "no function": "no function with @triton.jit",
        "not there": "install the adapter of triton",
        "a function within": "triton alone can make it",
    }[what] in line.reason


def test_a_recipe_that_others_may_have_written_is_not_followed(
    options: dict[str, Any], tmp_path: Path, compiled: list[str]
) -> None:
    """It names a module to be imported."""

    def open_up() -> None:
        (tmp_path / "used").chmod(0o777)
        shutil.rmtree(tmp_path / "triton")

    report = record_and_replay(options, tmp_path, compile_twice, open_up, allow_unsafe_cache=True)

    (line,) = report.unresolved
    assert "other users may write" in line.reason
    assert compiled == ["twice", "twice"], "the second time when it was asked for"


def test_a_hit_is_the_kernel_that_triton_makes(
    rt: ajit.BlockingRuntime, tritons_own_cache: Path, compiled: list[str]
) -> None:
    """Same binary, same metadata, same stages of IR; without Triton's cache, from ajit's."""
    expected = compile_twice()
    shutil.rmtree(tritons_own_cache)
    with ajit.integrations.install("triton", runtime=rt):
        made = compile_twice()
        shutil.rmtree(tritons_own_cache)
        found = compile_twice()

    for actual in (made, found):
        assert actual.asm["cubin"] == expected.asm["cubin"]
        assert actual.metadata == expected.metadata
        assert set(actual.asm) == set(expected.asm)
        assert actual.hash == expected.hash
    assert compiled == ["twice"] * 2


def test_what_is_found_triton_finds_without_ajit(
    rt: ajit.BlockingRuntime, tritons_own_cache: Path
) -> None:
    """The group's index is written with the paths of this machine."""
    hits = []
    with ajit.integrations.install("triton", runtime=rt):
        compile_twice()
        shutil.rmtree(tritons_own_cache)
        compile_twice()
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = lambda **facts: hits.append(facts["cache_hit"])
        compile_twice()

    assert hits == [True]


def test_listener_hears_of_hits(rt: ajit.BlockingRuntime) -> None:
    """As it does of Triton's own."""
    hits = []
    with ajit.integrations.install("triton", runtime=rt), triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = lambda **facts: hits.append(facts["cache_hit"])
        compile_twice()
        compile_twice()

    assert hits == [False, True]


def test_fingerprint_of_triton_is_tritons(rt: ajit.BlockingRuntime) -> None:
    """Worked out, and from the cache: the same text, so the same keys as without ajit."""
    cache = triton.runtime.cache
    cache.triton_key.cache_clear()
    expected = cache.triton_key()
    actual = []
    for _ in range(2):
        with ajit.integrations.install("triton", runtime=rt):
            actual.append(cache.triton_key())

    assert actual == [expected, expected]
    assert (rt.statistics().compiled, rt.statistics().from_disk) == (1, 1)
    assert cache.triton_key() == expected


def test_options_make_another_kernel(rt: ajit.BlockingRuntime, compiled: list[str]) -> None:
    """The key is Triton's: it has constants and options."""
    with ajit.integrations.install("triton", runtime=rt):
        compile_twice()
        compile_twice(block=256)
        compile_twice(num_warps=8)

    assert compiled == ["twice"] * 3


@pytest.mark.slow
def test_off_process_the_kernel_is_the_same(
    rt: ajit.BlockingRuntime, tritons_own_cache: Path
) -> None:
    """Another process makes it of the IR: same binary, same metadata, same stages."""
    expected = compile_twice()
    shutil.rmtree(tritons_own_cache)
    with ajit.integrations.install("triton", runtime=rt, off_process=True):
        made = compile_twice()
        found = compile_twice()

    for actual in (made, found):
        assert actual.asm["cubin"] == expected.asm["cubin"]
        assert actual.metadata == expected.metadata
        assert set(actual.asm) == set(expected.asm)
    assert rt.statistics().pool.finished == 1


@pytest.mark.slow
def test_off_process_errors_are_tritons(
    rt: ajit.BlockingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the translation, in the caller; and those of a process that broke off."""
    with ajit.integrations.install("triton", runtime=rt, off_process=True):
        with pytest.raises(CompileTimeAssertionFailure, match="SIZE"):
            compile_refused()
        monkeypatch.setattr(
            "ajit.integrations._triton_asked.COMPILE_IR", "ajit.integrations._triton_worker:none"
        )
        assert compile_twice().asm["cubin"]  # by itself, since nothing is said of the kernel


@pytest.mark.slow
def test_off_process_a_compile_that_hangs_is_killed(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its time limit, with its process; and the next one may try."""
    compile_ir = "ajit.integrations._triton_asked.COMPILE_IR"
    limited = {**options, "compile_timeout_seconds": 3.0}
    with ajit.open_blocking_runtime(**limited) as rt:
        elsewhere = ajit.integrations.install("triton", runtime=rt, off_process=True)
        with elsewhere, monkeypatch.context() as patched:
            patched.setattr(compile_ir, "tests.integrations.hangs:hang")
            with pytest.raises(ajit.CompileTimeout):
                compile_twice()
        with ajit.integrations.install("triton", runtime=rt):
            assert compile_twice().asm["cubin"]


def test_an_error_of_ptxas_comes_back_from_its_text() -> None:
    """What a process of the pool raised is what Triton raises."""
    raised = triton.runtime.errors.PTXASError("Internal error\nline 2")
    log = f"triton.runtime.errors.{log_of(raised)}\n\nTraceback (most recent call last):\n ..."
    error = ajit.CompileError(name="k", key="", compiler="triton", log=f"x error: y\n\n{log}")
    actual = as_triton_raises(error, shared_log(error.log))

    assert type(actual) is type(raised)
    assert str(actual) == str(raised)
    assert shared_log("RuntimeError: PassManager::run failed") is None


def test_an_error_of_the_kernel_is_had_once(rt: ajit.BlockingRuntime) -> None:
    """The second time it comes from the record, and is what Triton's autotuner looks for."""
    with ajit.integrations.install("triton", runtime=rt):
        with pytest.raises(CompileTimeAssertionFailure) as first:
            compile_refused()
        with pytest.raises(CompileTimeAssertionFailure) as second:
            compile_refused()

    assert str(second.value) == str(first.value)
    assert "SIZE is too small" in str(second.value)
    assert isinstance(second.value.__cause__, ajit.CompileError)


def test_an_error_of_the_machine_is_not_shared(
    rt: ajit.BlockingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing of the kernel: the next one tries again."""
    with monkeypatch.context() as patched:

        def refuse(*_: object, **__: object) -> None:
            raise OSError("no space left")

        patched.setattr(triton.backends.nvidia.compiler.CUDABackend, "make_cubin", refuse)
        with ajit.integrations.install("triton", runtime=rt), pytest.raises(OSError, match="space"):
            compile_twice()
    with ajit.integrations.install("triton", runtime=rt):
        assert compile_twice().asm["cubin"]


def test_uninstalling_puts_everything_back(rt: ajit.BlockingRuntime) -> None:
    """All three names, and functions that were launched before or meanwhile."""
    modules = (triton, triton.compiler, triton.compiler.compiler)
    before = [module.compile for module in modules]
    kernels.twice.compile = triton.compile
    installed = ajit.integrations.install("triton", runtime=rt)
    meanwhile = [module.compile for module in modules]
    bound = kernels.twice.compile
    installed.uninstall()
    installed.uninstall()

    assert len(set(meanwhile)) == 1
    assert bound is meanwhile[0] is not before[0]
    assert [module.compile for module in modules] == before
    assert kernels.twice.compile is before[0]


def test_it_is_installed_once(rt: ajit.BlockingRuntime) -> None:
    """Two runtimes cannot both have it."""
    with (
        ajit.integrations.install("triton", runtime=rt),
        pytest.raises(ajit.UsageError, match="already"),
    ):
        ajit.integrations.install("triton", runtime=rt)


def test_a_version_that_was_never_tried_is_left_alone(
    rt: ajit.BlockingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, and nothing is changed."""
    monkeypatch.setitem(ajit.integrations.TRIED, "triton", ("0.0.1",))
    before = triton.compile
    with (
        pytest.warns(ajit.AjitWarning, match="never tried"),
        ajit.integrations.install("triton", runtime=rt),
    ):
        assert triton.compile is before


def test_after_the_runtime_triton_works_alone(options: dict[str, Any]) -> None:
    """A closed runtime is no error of a kernel."""
    with ajit.open_blocking_runtime(**options) as rt:
        installed = ajit.integrations.install("triton", runtime=rt)
    with installed, pytest.warns(ajit.AjitWarning, match="compiles by itself"):
        assert compile_twice().asm["cubin"]


@pytest.mark.allow_blocking("it is about a compile in the event loop's thread")
@pytest.mark.anyio
async def test_on_the_loops_own_thread_it_is_refused(options: dict[str, Any]) -> None:
    """Or compiled by Triton alone, with a warning, if that was asked for."""
    async with ajit.open_runtime(**options) as rt:
        with (
            ajit.integrations.install("triton", runtime=rt),
            pytest.raises(ajit.UsageError, match="event loop"),
        ):
            compile_twice()
        with (
            ajit.integrations.install("triton", runtime=rt, on_loop="warn"),
            pytest.warns(ajit.AjitWarning, match="event loop"),
        ):
            assert compile_twice().asm["cubin"]


@pytest.mark.anyio
async def test_warm_up_compiles_off_the_loop(options: dict[str, Any], compiled: list[str]) -> None:
    """All are compiled, a failure is one of the results, and the loop has its turns meanwhile."""
    wanted = [
        adapter.Specialization(kernels.GOOD, {"BLOCK": block}, options={"num_warps": warps})
        for block in (64, 128)
        for warps in (1, 4)
    ]
    turns = 0

    async with ajit.open_runtime(**options) as rt:
        install = partial(ajit.integrations.install, "triton", runtime=rt)
        with await anyio.to_thread.run_sync(install):
            async with anyio.create_task_group() as group:

                async def tick() -> None:
                    nonlocal turns
                    while True:
                        await anyio.sleep(0.01)
                        turns += 1

                group.start_soon(tick)
                made = await adapter.warmup(kernels.twice, wanted, target=TARGET)
                failed = await adapter.warmup(
                    kernels.refuses,
                    [adapter.Specialization(kernels.BAD, {"SIZE": 1})],
                    target=TARGET,
                )
                group.cancel_scope.cancel()
            again = await adapter.warmup(kernels.twice, wanted, target=TARGET)

    assert not [error for error in made if isinstance(error, Exception)]
    assert [kernel.metadata.num_warps for kernel in made] == [1, 4, 1, 4]
    assert isinstance(failed[0], CompileTimeAssertionFailure)
    assert [kernel.asm["cubin"] for kernel in again] == [kernel.asm["cubin"] for kernel in made]
    assert sorted(compiled) == ["refuses", *["twice"] * 4]
    assert turns > 5


@pytest.mark.anyio
async def test_warm_up_needs_the_adapter() -> None:
    """It says what to do."""
    with pytest.raises(ajit.UsageError, match="install"):
        await adapter.warmup(kernels.twice, [])
