"""Kernels that are specialised by shape and dtype: own families, and those of vLLM's form."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import anyio
import msgspec
import pytest

import ajit
from ajit._core.record import Use, encode_line, use_id

pytestmark = pytest.mark.anyio

SOURCE = """
extern "C" __global__ void scale(float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= FACTOR * WIDTH;
}
"""
TEMPLATE = "template <class T, int N> __global__ void fill(T* x) { x[threadIdx.x] = T(N); }"


@dataclass(frozen=True)
class Key:
    """Of the family below."""

    width: int
    factor: int = 2


SCALE = ajit.Family.of_source(
    SOURCE,
    "scale",
    key=Key,
    dispatch=lambda x, factor=2: Key(len(x), factor),
    keys=lambda config: [Key(width) for width in (*config, *config)],
)


class Warmable:
    """Of vLLM's form: it knows nothing of ajit."""

    @dataclass(frozen=True)
    class CompileKey:
        """What it is specialised by."""

        block: int
        dtype: str = "bf16"

    def __init__(self, fails_for: int = -1) -> None:
        self.compiled: list = []
        self.threads: set[str] = set()
        self._fails_for = fails_for

    def dispatch(self, *, n: int) -> CompileKey:
        """A power of two."""
        return self.CompileKey(1 << (n - 1).bit_length())

    def get_warmup_keys(self, config) -> list:
        """Of each length."""
        return [self.dispatch(n=n) for n in config]

    def compile(self, compile_key) -> None:
        """Blocks, as compiles do."""
        self.threads.add(threading.current_thread().name)
        if compile_key.block == self._fails_for:
            raise ValueError("no such block")
        self.compiled.append(compile_key)


def test_a_key_makes_the_spec_of_a_source():
    """Its fields are macros, and stand in for names of a template's arguments."""
    spec = SCALE.spec(Key(8))

    assert spec.defines == (("FACTOR", "2"), ("WIDTH", "8"))
    assert (spec.name, spec.entry_names) == ("scale 8 2", ("scale",))
    assert SCALE.spec(Key(8)) is spec
    assert SCALE.dispatch(x=[0] * 8) == Key(8)
    assert SCALE.get_warmup_keys([4, 8]) == [Key(4), Key(8)]

    @dataclass(frozen=True)
    class TemplateKey:
        dtype: str
        n: int

    fill = ajit.Family.of_source(
        TEMPLATE, "fill<{dtype}, {n}>", key=TemplateKey, dispatch=TemplateKey,
        macros=lambda _: {}, name="fill", compiler="host", include_dirs=["/opt/include"],
    )  # fmt: skip
    made = fill.spec(TemplateKey("float", 3))
    assert made.entry_names == ("fill<float, 3>",)
    assert (made.compiler, made.include_dirs, made.defines) == ("host", ("/opt/include",), ())


def test_what_is_no_family_is_refused():
    """A key that can be changed, an object without the methods, a class instead of an object."""

    @dataclass
    class Loose:
        n: int

    with pytest.raises(ajit.UsageError, match="Loose is none"):
        ajit.Family.of_source(SOURCE, "scale", key=Loose, dispatch=Loose)
    for wrong in (object(), Warmable, "scale", (object(), [])):
        with pytest.raises(ajit.UsageError, match="a family is"):
            ajit.families([wrong])
    with pytest.raises(ajit.SpecError, match=r"made no ajit\.Spec"):
        ajit.Family("odd", lambda key: None, dispatch=Key).spec(Key(1))


async def test_the_keys_of_a_configuration_are_ready_before_the_first_request(
    with_device, compiler
):
    """And what a request dispatches to is loaded."""
    async with ajit.open_runtime(**with_device) as rt:
        report = await rt.warmup(ajit.families([SCALE], config=[4, 8]))
        rt.freeze("error")
        kernel = await SCALE.kernel(rt, x=[0] * 8)
        artifact = await SCALE.compile(Key(4), rt)

    assert (report.total, report.compiled) == (2, 2)
    assert kernel.name == "scale"
    assert artifact.name == "scale 4 2"
    assert compiler.started == 2


async def test_a_provider_of_vllms_form_is_taken_as_it_is(options):
    """Its keys once, also over several objects of one kind; off the loop; with progress."""
    one, other = Warmable(), Warmable()
    told = []
    async with ajit.open_runtime(**options, subscribers=[told.append]) as rt:
        work = ajit.families([one, other, (one, [one.dispatch(n=3)])], config=[1, 2, 3, 4, 5])
        report = await rt.warmup(work)

    assert (report.total, report.compiled, report.failures) == (4, 4, ())
    assert sorted(key.block for key in one.compiled + other.compiled) == [1, 2, 4, 8]
    assert all(name.startswith("ajit-io") for name in one.threads)
    assert [(event.done, event.total) for event in told] == [(n, 4) for n in range(1, 5)]
    assert {event.name for event in told} == {f"Warmable {n} bf16" for n in (1, 2, 4, 8)}


async def test_a_key_that_fails_is_a_failure_with_the_providers_traceback(options):
    """And the others are made ready."""
    provider = Warmable(fails_for=2)
    async with ajit.open_runtime(**options) as rt:
        report = await rt.warmup(ajit.families([provider], config=[1, 2, 4]))

    (failure,) = report.failures
    assert (failure.spec, failure.name) == (None, "Warmable 2 bf16")
    assert "no such block" in failure.error.log
    assert report.compiled == 2


async def test_a_provider_that_does_not_say_its_keys_is_told(options):
    """With what to do."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.UsageError, match="give a pair of it and its keys"):
            await rt.warmup(ajit.families([Warmable()]))


@pytest.mark.allow_blocking("the test reads the record")
async def test_keys_are_recorded_and_replayed(options, tmp_path):
    """At the next start, where the provider is there again; else the line is reported."""
    path = tmp_path / "used.ajit"
    async with ajit.open_runtime(**options, record=path) as rt:
        await rt.warmup(ajit.families([Warmable()], config=[1, 2]))

    async with ajit.open_runtime(**options) as rt:
        gone = await rt.warmup(ajit.replay(path))
        provider = Warmable()
        report = await rt.warmup(ajit.replay(path, families=[provider]))

    assert (gone.compiled, len(gone.unresolved), gone.failures) == (0, 2, ())
    assert "among the families of the replay" in gone.unresolved[0].reason
    assert (report.compiled, report.unresolved) == (2, ())
    assert sorted(key.block for key in provider.compiled) == [1, 2]
    assert {type(key) for key in provider.compiled} == {Warmable.CompileKey}


@pytest.mark.allow_blocking("the test writes the record")
async def test_a_recorded_key_that_cannot_be_made_again_is_reported(options, tmp_path):
    """It was of another version of the provider, or holds what no text can."""
    path, name = tmp_path / "used.ajit", f"{Warmable.__module__}.Warmable"
    builds = [{"provider": name, "key": {"other": 1}}, {"strange": 1}]
    raw = [msgspec.json.encode(build) for build in builds]
    path.write_bytes(
        b"".join(
            encode_line(Use(kind="key", id=use_id("key", "", "", build), build=msgspec.Raw(build)))
            for build in raw
        )
    )
    path.chmod(0o600)
    provider = Warmable()
    async with ajit.open_runtime(**options) as rt:
        report = await rt.warmup(ajit.replay(path, families=[provider]))

    reasons = " ".join(line.reason for line in report.unresolved)
    assert "can be made again" in reasons
    assert "of no key" in reasons
    assert (report.failures, provider.compiled) == ((), [])


async def test_ranks_share_the_keys_of_all_families(with_device, compiler):
    """Each kernel is compiled by one; each provider knows every key in each process."""
    providers, reports = [Warmable(), Warmable()], {}
    order: list = []

    async def rank(number):
        async with ajit.open_runtime(**with_device) as rt:
            provider = providers[number]
            work = ajit.families([SCALE, provider], config=[1, 2, 4], ranks=2, rank=number)
            reports[number] = await ajit.ready(rt, work).wait()
            order.append(number)

    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(rank, number)

    assert sorted(order) == [0, 1]
    assert [reports[n].total for n in range(2)] == [6, 6]
    assert sum(reports[n].share for n in range(2)) == 6
    assert compiler.started == 3
    for provider in providers:
        assert sorted(key.block for key in provider.compiled) == [1, 2, 4]


def made(entry="fill<{dtype}, {width}>", **changes):
    """A family whose mistakes are looked for."""

    @dataclass(frozen=True)
    class Filled:
        dtype: object
        width: int

    return ajit.Family.of_source(
        TEMPLATE,
        entry,
        **{"key": Filled, "dispatch": Filled, **changes},
    )


def test_a_family_is_called_by_its_kernel_and_a_spec_by_its_key_too():
    """Not by the text in which fields of the key stand."""
    family = made()

    assert family.name == "fill"
    assert family.spec(family.dispatch(dtype="float", width=4)).name == "fill float 4"
    assert made("fill_{dtype}").name == "fill"
    assert made("{dtype}").name == "{dtype}"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"entry": "fill<{dtyp}, {width}>"}, r"\{dtyp\} .* did you mean 'dtype'\?; its fields: dt"),
        ({"define": {}}, "'define' is neither"),
        ({"include_dir": []}, "did you mean 'include_dirs'"),
        ({"defines": {"N": 1}}, "give macros= a function"),
        ({"key": int}, r"write @dataclass\(frozen=True\)"),
    ],
)
def test_mistakes_of_a_family_are_told_when_it_is_made(changes, says):
    """With what was expected, and not at the first request."""
    with pytest.raises(ajit.UsageError, match=says):
        made(**changes)


def test_what_is_no_key_is_told():
    """A tuple that dispatch returns, or a field that cannot be hashed."""
    with pytest.raises(ajit.UsageError, match=r"'fill' is a Filled.* got \('float', 4\)"):
        made().spec(("float", 4))
    family = made()
    with pytest.raises(ajit.UsageError, match="make a tuple"):
        family.spec(family.dispatch(dtype=["float"], width=4))


def test_families_say_what_they_take():
    """One without keys would be warmed up by nothing, without a word."""
    with pytest.raises(ajit.UsageError, match=r"write \[fill\]"):
        ajit.families(made())
    with pytest.raises(ajit.UsageError, match="without keys="):
        ajit.families([made()])


async def test_a_configuration_that_was_forgotten_is_told(options):
    """The function that wants one was called with nothing."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(ajit.UsageError, match="asked without one: config is None"):
            await rt.warmup(ajit.families([SCALE]))
