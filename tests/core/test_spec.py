"""A spec is a well-formed value, whatever it was made from; anything else is a `SpecError`."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
import timeit
from pathlib import Path, PurePosixPath

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ajit._core.job import CompileJob
from ajit._core.spec import MAX_SOURCE_BYTES, EntryPoint, Spec, is_cpu_arch, validate_arch
from ajit.errors import AjitError, SpecError, UnknownArch

SOURCE = """
#include "kernels.cuh"
extern "C" __global__ void saxpy(float a, const float* x, float* y, int n) {}
"""
"""Has the kernel saxpy. Any other one may be in the header."""


def a_spec(**changes: object) -> Spec:
    """A spec with every attribute given, some of them as asked."""
    given = {
        "source": SOURCE,
        "entries": "saxpy",
        "params": "float a, const float* x, float* y, int n",
        "name": "saxpy",
        "compiler": "nvrtc",
        "arch": "sm_90a",
        "options": ["-std=c++17"],
        "defines": {"TILE": 32},
        "include_dirs": [Path("include")],
        "headers": {"tile.h": "#pragma once"},
        "extra_digest": "v1",
    }
    return Spec(**given | changes)


# --- what one may write ---


def test_a_name_may_hold_characters_that_cannot_be_taken_for_marks() -> None:
    """Of others, the number does; the error says so."""
    source = "template <char C> __global__ void k(int *x) {}"
    spec = Spec(source, "k< 'a' >")

    assert spec.entry_names == ("k<'a'>",)
    assert spec.entries[0].params == ("int*",)
    for character in ("','", "'\\n'", "';'", "'ab'", "'"):
        with pytest.raises(SpecError, match="write the number"):
            Spec(source, f"k<{character}>")


def test_a_byte_order_mark_is_no_part_of_a_source() -> None:
    """Neither of the text nor of the bytes, nor of a virtual header."""
    source = "__global__ void k() {}\n"
    plain = Spec(source, "k", headers={"a.h": "// two\n"})

    assert Spec("\ufeff" + source, "k", headers={"a.h": "\ufeff// two\n"}) == plain
    assert Spec(b"\xef\xbb\xbf" + source.encode(), "k", headers={"a.h": "// two\n"}) == plain


def test_source_and_entry_are_enough():
    """Everything else has a default."""
    spec = Spec(SOURCE, "saxpy")

    assert spec.source == SOURCE
    assert spec.entry_names == ("saxpy",)
    assert (spec.name, spec.compiler, spec.arch) == ("saxpy", "auto", None)
    assert (spec.options, spec.defines, spec.include_dirs, spec.headers) == ((), (), (), ())
    assert spec.extra_digest is None


def test_every_attribute_is_normalised():
    """Lists become tuples, paths text, numbers macro text, mappings sorted pairs."""
    spec = a_spec(
        options=iter(["-std=c++17", "-lineinfo"]),
        defines={"TILE": 32, "ALPHA": 0.5, "FAST": True, "BARE": None, "EMPTY": ""},
        include_dirs=[Path("a"), "b", PurePosixPath("c")],
        headers={"b.h": "2", "a.h": "1"},
    )

    assert spec.options == ("-std=c++17", "-lineinfo")
    assert spec.defines == (
        ("ALPHA", "0.5"), ("BARE", None), ("EMPTY", ""), ("FAST", "1"), ("TILE", "32"),
    )  # fmt: skip
    assert spec.include_dirs == ("a", "b", "c")
    assert spec.headers == (("a.h", "1"), ("b.h", "2"))


def test_macros_are_names_pairs_or_a_mapping():
    """The three ways to write macros give the same spec."""
    expected = (("BARE", None), ("TILE", "32"))

    assert a_spec(defines={"TILE": 32, "BARE": None}).defines == expected
    assert a_spec(defines=["BARE", ("TILE", "32")]).defines == expected
    assert a_spec(defines=[("TILE", 32), ("BARE", None)]).defines == expected


def test_numpy_numbers_are_macro_values():
    """A server computes its tile sizes with NumPy; `numpy.bool_` is not a `bool`."""
    numpy = pytest.importorskip("numpy")
    spec = a_spec(defines={"N": numpy.int64(7), "FAST": numpy.bool_(True)})  # noqa: FBT003

    assert spec.defines == (("FAST", "1"), ("N", "7"))


def test_source_may_be_utf8_bytes():
    """Bytes from a file are the same source as their text."""
    assert Spec("int k; // größe\n".encode(), "k") == Spec("int k; // größe\n", "k")


def test_several_entry_points_keep_their_order():
    """Names and `EntryPoint` mix."""
    spec = Spec(SOURCE, ["scale<float, 4>", EntryPoint("axpy", ("float", "int"))])

    assert spec.entry_names == ("scale<float, 4>", "axpy")
    assert spec.entry_point("axpy").params == ("float", "int")


@pytest.mark.parametrize("params", [["int", "float *"], "int n, float *x"], ids=["list", "text"])
def test_entry_point_may_declare_its_parameters_like_a_spec(params):
    """`EntryPoint(name, params)` takes what `Spec` takes, and the spec is hashable."""
    spec = Spec(SOURCE, [EntryPoint("k", params)])

    assert spec.entry_point().params == ("int", "float*")
    assert hash(spec) == hash(Spec(SOURCE, "k", params=params))


def test_white_space_in_a_name_expression_is_folded():
    """One name expression has one spelling, and is found by any spelling."""
    spec = Spec(SOURCE, " scale<float,\n   4> ")

    assert spec.entry_names == ("scale<float, 4>",)
    assert spec.entry_point("scale<float,   4>") is spec.entries[0]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("axpy< float >", "axpy<float>"),
        ("axpy <float,4>", "axpy<float, 4>"),
        ("a :: axpy< V< int > , const float * >", "a::axpy<V<int>, const float*>"),
        ("axpy<unsigned  int>", "axpy<unsigned int>"),
        ("(void (*)(int , float))axpy", "(void (*)(int, float))axpy"),
        ("&axpy< 4 >", "&axpy<4>"),
    ],
)
def test_spaces_in_a_name_do_not_count(written, expected):
    """`axpy< float >` is the kernel `axpy<float>`, with one key."""
    spec = Spec(SOURCE, written)

    assert expected == spec.entry_names[0]
    assert spec == Spec(SOURCE, expected)
    assert spec.entry_point(written) is spec.entries[0]


def test_the_only_entry_point_needs_no_name():
    """With one kernel there is nothing to choose."""
    assert a_spec().entry_point().name == "saxpy"


def test_choosing_among_entry_points():
    """With several, a name is needed, and it has to be one of them; both errors say so."""
    spec = Spec(SOURCE, ["a", "b"], name="pair")

    with pytest.raises(SpecError, match=r"pair.*2 entry points.*a, b"):
        spec.entry_point()
    with pytest.raises(SpecError, match=r"pair.*no entry point 'c'"):
        spec.entry_point("c")


def test_with_takes_what_of_takes():
    """A changed copy is as well formed as the original."""
    spec = a_spec().with_(arch="sm_80", defines={"TILE": 64}, options=["-G"], entries="other")

    assert (spec.arch, spec.defines, spec.options) == ("sm_80", (("TILE", "64"),), ("-G",))
    assert spec.entries == (EntryPoint("other"),)
    assert spec.source == SOURCE
    assert spec.extra_digest == "v1"


def test_with_changes_nothing_by_itself():
    """A copy with no change is equal; an unknown attribute is an error of the caller's code."""
    spec = a_spec(entries=["a", EntryPoint("b", ("int",))], params=None)

    assert spec.with_() == spec
    with pytest.raises(TypeError, match="colour"):
        spec.with_(colour="red")
    with pytest.raises(UnknownArch):
        spec.with_(arch="sm_9000")


# --- what one may not write ---

BAD_SPECS = {
    "empty source": ({"source": ""}, "empty source"),
    "blank source": ({"source": " \n\t"}, "empty source"),
    "no source": ({"source": None}, "source must be str or bytes, got NoneType"),
    "source with NUL": ({"source": "int a;\0int b;"}, "NUL"),
    "lone surrogate": ({"source": "// \ud800"}, "UTF-8"),
    "no entry point": ({"entries": [], "params": None}, "no entry point"),
    "empty entry point": ({"entries": " "}, "not the name of a kernel"),
    "entry twice": ({"entries": ["a", "a"], "params": None}, "twice"),
    "entry in two spellings": ({"entries": ["a<1, 2>", "a<1,  2>"], "params": None}, "twice"),
    "entry with code": ({"entries": "a; int b"}, "not the name of a kernel"),
    "entry with braces": ({"entries": "a{}"}, "not the name of a kernel"),
    "entry with a directive": ({"entries": "a\n#include <b>"}, "not the name of a kernel"),
    "entry with a comment": ({"entries": "a // b"}, "not the name of a kernel"),
    "entry with an open comment": ({"entries": "a /* b"}, "not the name of a kernel"),
    "entry with NUL": ({"entries": "a\0b"}, "not the name of a kernel"),
    "entry with a surrogate": ({"entries": "a\ud800"}, "not the name of a kernel"),
    "entry is bytes": ({"entries": b"saxpy", "params": None}, "entries"),
    "entry is a number": ({"entries": 7, "params": None}, "entries"),
    "entries are numbers": ({"entries": [7], "params": None}, "not the name of a kernel"),
    "params of several": ({"entries": ["a", "b"]}, "single kernel"),
    "unknown compiler": ({"compiler": "gcc"}, "auto, nvrtc, nvcc, host"),
    "compiler is a list": ({"compiler": ["nvrtc"]}, "auto, nvrtc, nvcc, host"),
    "options in one text": ({"options": "-G -lineinfo"}, "options must be a list"),
    "option is a number": ({"options": [3]}, "option"),
    "option with NUL": ({"options": ["-G\0"]}, "NUL"),
    "option with a surrogate": ({"options": ["-DX=\udcff"]}, "UTF-8"),
    "include_dirs in one text": ({"include_dirs": "include"}, "include_dirs must be a list"),
    "include_dirs is a path": ({"include_dirs": Path("include")}, r"include_dirs"),
    "include dir is a number": ({"include_dirs": [3]}, "include_dirs"),
    "include dir with NUL": ({"include_dirs": ["a\0"]}, "NUL"),
    "macro is not a name": ({"defines": ["TILE=32"]}, "not the name of a macro"),
    "macro is a number": ({"defines": [3]}, "macro"),
    "macro is a triple": ({"defines": [("A", "1", "2")]}, "macro"),
    "macros in one text": ({"defines": "TILE"}, r"defines must be a list"),
    "macro twice": ({"defines": ["A", ("A", "1")]}, "twice"),
    "macro value with NUL": ({"defines": {"A": "1\0"}}, "NUL"),
    "macro value of two lines": ({"defines": {"A": "1\n2"}}, "line"),
    "header twice": ({"headers": [("a.h", "1"), ("a.h", "2")]}, "twice"),
    "header without a name": ({"headers": {"": "1"}}, "header"),
    "header text is bytes": ({"headers": {"a.h": b"1"}}, "header"),
    "headers in one text": ({"headers": "a.h"}, r"headers must be a list"),
    "header of absolute name": ({"headers": {"/a.h": "1"}}, "absolute"),
    "label is no text": ({"name": 7}, "name must be str, got int"),
    "label with a line break": ({"name": "a\nb"}, "name"),
    "digest is bytes": ({"extra_digest": b"v1"}, "extra_digest"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "complaint"), BAD_SPECS.values(), ids=BAD_SPECS.keys())
def test_bad_spec_says_what_is_wrong(changes, complaint):
    """Whatever cannot reach a compiler as it was meant is refused, with its reason."""
    with pytest.raises(SpecError, match=complaint):
        a_spec(**changes)


def test_source_that_is_not_utf8_names_the_line():
    """A Latin-1 file is reported by the line that has the byte."""
    with pytest.raises(SpecError, match="line 3") as caught:
        Spec(b"int a;\nint b;\n// gr\xf6\xdfe\n", "k")

    assert caught.value.__cause__ is None, "the message says it all"


def test_source_of_ten_megabytes_is_fine():
    """Generators write big sources."""
    spec = Spec("int k; // 10 MB\n" + "int filler;\n" * 900_000, "k")

    assert len(spec.source) > 10_000_000
    assert hash(spec) == hash(Spec(spec.source.encode(), "k"))


@pytest.mark.parametrize("letter", ["x", "é"], ids=["ascii", "two bytes each"])
def test_source_above_the_limit_is_refused(letter):
    """The limit counts bytes, as its name says, and not characters."""
    too_many = MAX_SOURCE_BYTES // len(letter.encode()) + 1

    with pytest.raises(SpecError, match=f"above {MAX_SOURCE_BYTES} bytes"):
        Spec(letter * too_many, "k")


@pytest.mark.parametrize(
    "arch",
    ["sm_80", "sm_90", "sm_90a", "sm_100", "sm_100f", "sm_120a", "x86_64", "aarch64"],
)
def test_known_forms_of_arch(arch):
    """GPU and CPU archs that compilers know."""
    assert Spec(SOURCE, "k", arch=arch).arch == arch
    assert validate_arch(arch) == arch


@pytest.mark.parametrize(
    "arch",
    ["", "sm90", "sm_9", "sm_09", "sm_9000", "sm_90b", "sm_90aa", "sm_90a\n", "SM_90", "compute_90",
     "gfx942", "x86-64", "sm_٩٠", 90, None],
)  # fmt: skip
def test_unknown_arch_names_known_ones(arch):
    """The error has the arch and tells what one looks like."""
    with pytest.raises(UnknownArch, match="sm_90a") as caught:
        validate_arch(arch)

    assert caught.value.arch == arch


def test_cpu_archs():
    """Which archs the host compiler builds for."""
    assert is_cpu_arch("x86_64")
    assert is_cpu_arch("aarch64")
    assert not is_cpu_arch("sm_90a")


# --- parameter lists ---

PARAMETER_LISTS = {
    "": (),
    "void": (),
    "int": ("int",),
    "int n": ("int",),
    "unsigned int": ("unsigned int",),
    "unsigned int n": ("unsigned int",),
    "unsigned n": ("unsigned",),
    "unsigned long long n": ("unsigned long long",),
    "long long": ("long long",),
    "const half": ("const half",),
    "const half h": ("const half",),
    "half const h": ("half const",),
    "half const": ("half const",),
    "struct Args args": ("struct Args",),
    "struct Args": ("struct Args",),
    "const float* __restrict__ x": ("const float*",),
    "const float *__restrict x": ("const float*",),
    "float* __restrict__": ("float*",),
    "half *p": ("half*",),
    "half*p": ("half*",),
    "half * * p": ("half**",),
    "float* const p": ("float* const",),
    "const std::uint32_t": ("const std::uint32_t",),
    "std::uint32_t n": ("std::uint32_t",),
    "T a[]": ("T*",),
    "const T a[16]": ("const T*",),
    "float a = 1.0f": ("float",),
    "int n = LIMIT": ("int",),
    "const __grid_constant__ CUtensorMap map": ("const CUtensorMap",),
    "Vec<float, 4> v, int n": ("Vec<float, 4>", "int"),
    "const Pair<int, Vec<float, 2>>* p": ("const Pair<int, Vec<float, 2>>*",),
    "Vec<float>::value_type x": ("Vec<float>::value_type",),
    "float a,\n    // the input\n    const float* x, /* n, in elements */ int n": (
        "float", "const float*", "int",
    ),
    "float a, const float* x, float* y, int n": ("float", "const float*", "float*", "int"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PARAMETER_LISTS.items(), ids=repr)
def test_parameter_list_as_in_the_source(text, expected):
    """A parameter list can be pasted from the kernel."""
    assert Spec(SOURCE, "k", params=text).entry_point().params == expected


@pytest.mark.parametrize(
    "text",
    ["int a,, int b", "int a,", ",", "float (*f)(int)", "float (*f)(int, int)", "int (&a)[4]",
     "Vec<float, 4 v", "int a[4][4]", "...", "4", "int a; int b", "int a) {", "= 4"],
)  # fmt: skip
def test_parameter_list_that_is_not_understood(text):
    """Guessing a type would be found out on the device; the way out is named."""
    with pytest.raises(SpecError, match=r"parameter.*sequence"):
        Spec(SOURCE, "k", params=text)


def test_sequence_of_types_is_taken_as_it_is():
    """A sequence holds types, not declarations; only their spacing is made uniform."""
    types = ["const  float *", "Vec<float, 4>", "struct Args", "std::array<int,4>", "T&"]

    assert Spec(SOURCE, "k", params=types).entry_point().params == (
        "const float*", "Vec<float, 4>", "struct Args", "std::array<int,4>", "T&",
    )  # fmt: skip


@pytest.mark.parametrize("params", [["int", ""], ["int", 4], [b"int"], 7, b"int n", ["int\0"]])
def test_bad_sequence_of_types(params):
    """Each type is a text that says something."""
    with pytest.raises(SpecError, match="params"):
        Spec(SOURCE, "k", params=params)


def test_undeclared_parameters_are_not_the_same_as_none():
    """Undeclared kernels cannot be launched; kernels without parameters can."""
    assert Spec(SOURCE, "k").entry_point().params is None
    assert Spec(SOURCE, "k", params=()).entry_point().params == ()


# --- a value ---

OTHER_VALUES = {
    "source": SOURCE + "// another one",
    "entries": "other",
    "params": ["float", "const float*", "void*", "int"],
    "name": "other",
    "compiler": "nvcc",
    "arch": "sm_80",
    "options": ["-std=c++20"],
    "defines": {"TILE": 64},
    "include_dirs": ["other"],
    "headers": {"tile.h": ""},
    "extra_digest": None,
}


@pytest.mark.parametrize("attribute", OTHER_VALUES)
def test_specs_that_differ_are_not_equal(attribute):
    """Every attribute counts, for the compiler as for people."""
    assert a_spec(**{attribute: OTHER_VALUES[attribute]}) != a_spec()


def test_equal_specs_are_one_dictionary_key():
    """Equal by content, however they were made."""
    one, other = a_spec(), a_spec(source=SOURCE.encode(), include_dirs=["include"])

    assert one is not other
    assert one == other
    assert len({one, other}) == 1
    assert one != "saxpy"


def test_spec_cannot_be_changed():
    """Frozen, and without room for more attributes."""
    with pytest.raises(AttributeError):
        a_spec().source = "other"
    with pytest.raises((AttributeError, TypeError)):
        a_spec().colour = "red"


def test_copies_are_equal():
    """By copy and by pickle."""
    spec = a_spec()

    for made in (copy.copy(spec), copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):  # noqa: S301
        assert made == spec
        assert hash(made) == hash(spec)


def test_pickled_spec_is_found_in_another_process():
    """Texts hash differently in each process, so a cached hash must not travel."""
    spec = Spec(SOURCE, "saxpy")
    program = (
        "import pickle, sys; from ajit._core.spec import Spec;"
        "sent = pickle.load(sys.stdin.buffer);"
        f"made = Spec({SOURCE!r}, 'saxpy');"
        "sys.exit(not (sent == made and hash(sent) == hash(made) and sent in {made}))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(spec), check=False, timeout=60,
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0


def test_hash_does_not_depend_on_the_size_of_the_spec():
    """The hot path hashes a spec at each call: that is one lookup of a number."""
    small, big = Spec("k", "k"), Spec("k", "k", options=[f"-D{n}" for n in range(20_000)])
    hash_small = min(timeit.repeat(lambda: hash(small), number=1000, repeat=5))
    hash_big = min(timeit.repeat(lambda: hash(big), number=1000, repeat=5))

    # Hashing 20 000 options anew would take hundreds of times as long, and not fifty.
    assert hash_big < 50 * hash_small


def test_representation_is_short():
    """A log line with a spec does not have its source."""
    assert repr(a_spec()) == "<Spec 'saxpy' entries=[saxpy] compiler=nvrtc arch=sm_90a>"
    assert len(repr(Spec("k " * 100_000, "k"))) < 100


ANY_TEXT = st.text(st.characters(), max_size=20)


@given(
    source=ANY_TEXT | st.binary(max_size=20), entry=ANY_TEXT, params=ANY_TEXT, name=ANY_TEXT,
    options=st.lists(ANY_TEXT), defines=st.dictionaries(ANY_TEXT, ANY_TEXT | st.none()),
    include_dirs=st.lists(ANY_TEXT), headers=st.dictionaries(ANY_TEXT, ANY_TEXT),
)  # fmt: skip
def test_any_text_is_refused_or_can_be_sent_to_a_compiler(
    source, entry, params, name, options, defines, include_dirs, headers
):
    """There is no third way: an accepted spec survives the way to a worker process."""
    try:
        spec = Spec(
            source, entry, params=params, name=name, options=options, defines=defines,
            include_dirs=include_dirs, headers=headers,
        )  # fmt: skip
    except AjitError:
        return
    job = CompileJob(
        key="00", name=spec.name, source=spec.source, entries=spec.entry_names, compiler="nvrtc",
        arch="sm_90a", options=spec.options, defines=spec.defines, include_dirs=spec.include_dirs,
        headers=spec.headers,
    )  # fmt: skip
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(job), type=CompileJob)

    assert sent == job
    assert "\0" not in "".join((spec.source, *spec.entry_names, *spec.options))


# --- from a file ---


@pytest.fixture
def saxpy_file(tmp_path: Path) -> Path:
    """A source in a new folder, with a header beside it."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "tile.cuh").write_text("#define TILE 32\n")
    file = tmp_path / "kernels" / "saxpy.cu"
    file.write_text('#include "tile.cuh"\n__global__ void größe() {}\n' + SOURCE, "utf-8")
    return file


def test_file_is_a_source_with_its_own_include_directory(saxpy_file):
    """A header beside a file is found by it, before any other directory is searched."""
    spec = Spec.from_file(saxpy_file, "saxpy", include_dirs=["include"], defines={"N": 1})

    assert spec.source == saxpy_file.read_text("utf-8")
    assert spec.include_dirs == (str(saxpy_file.parent), "include")
    assert spec.entry_point().params == ("float", "const float*", "float*", "int")
    assert (spec.name, spec.defines) == ("saxpy", (("N", "1"),))


def test_file_is_named_as_compilers_take_names(saxpy_file, monkeypatch, tmp_path):
    """By a text, from the working directory; beside a link lies what its name lies beside."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.cu").symlink_to(saxpy_file)

    assert Spec.from_file("kernels/saxpy.cu", "saxpy").include_dirs == (str(saxpy_file.parent),)
    assert Spec.from_file("link.cu", "saxpy").include_dirs == (str(tmp_path),)


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("missing.cu", r"'.*missing\.cu' cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
        ("a\0b.cu", "cannot be read"),
    ],
)
def test_file_that_cannot_be_read_is_named(tmp_path, monkeypatch, path, complaint):
    """The error says which file, and why."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SpecError, match=complaint):
        Spec.from_file(path, "k")


def test_file_without_an_end_is_refused():
    """It is read up to the limit, and no further."""
    with pytest.raises(SpecError, match=f"'/dev/zero' has more than {MAX_SOURCE_BYTES} bytes"):
        Spec.from_file("/dev/zero", "k")


def test_file_that_is_not_a_path_or_not_utf8_is_refused(tmp_path):
    """Source text given as a path is a mistake of the other kind."""
    (tmp_path / "latin.cu").write_bytes(b"int k;\n// gr\xf6\xdfe\n")

    with pytest.raises(SpecError, match="path must be str or a path, got int"):
        Spec.from_file(7, "k")
    with pytest.raises(SpecError, match=r"not UTF-8.*line 2"):
        Spec.from_file(tmp_path / "latin.cu", "k")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Path("a.cu"), "source must be str or bytes, got PosixPath (use Spec.from_file)"),
        ("saxpy.cu", "source is the name of a file, 'saxpy.cu'; use Spec.from_file"),
        ("/srv/a b.cuh", "source is the name of a file, '/srv/a b.cuh'; use Spec.from_file"),
        (7, "source must be str or bytes, got int"),
    ],
)  # fmt: skip
def test_path_given_as_source_is_told_the_way(source, expected):
    """The most likely mistake of a first program names its remedy."""
    with pytest.raises(SpecError) as caught:
        Spec(source, "k")

    assert str(caught.value) == expected


# --- labels and words ---


def test_label_is_the_first_kernel_unless_given():
    """Events, logs and tables name the kernel and not the word "kernel"."""
    assert Spec(SOURCE, ["scale<float, 4>", "b"]).name == "scale<float, 4>"
    assert Spec(SOURCE, EntryPoint("b")).name == "b"
    assert Spec(SOURCE, "b", name="mine").name == "mine"


def test_entry_point_is_well_formed_by_itself():
    """It is normalised and checked where it is made, not only in a spec."""
    assert EntryPoint(" a<1,\n 2> ", "int n, float *x") == EntryPoint("a<1, 2>", ["int", "float *"])
    with pytest.raises(SpecError, match="name of a kernel"):
        EntryPoint("a;")
    with pytest.raises(SpecError) as caught:
        EntryPoint("a", [float])
    assert str(caught.value) == 'params[0] must be a C type name such as "float", got type'


def test_representation_is_one_line_of_less_than_200_characters():
    """However long the names are, and however many."""
    long = Spec(SOURCE, [f"scale<float, {n}>" for n in range(100)], name="x" * 500, arch="sm_90a")

    assert len(repr(long)) < 200
    assert "\n" not in repr(long)
    assert repr(long).startswith("<Spec 'xxx")


def test_replaced_entry_point_is_as_good_as_one_that_is_made():
    """`dataclasses.replace` works, and what was read from one source is read again from another."""
    entry = Spec("__global__ void k(int n) {}\n__global__ void j(float x) {}", "k").entry_point()
    declared = dataclasses.replace(entry, params="float x, int n")

    assert declared == EntryPoint("k", ["float", "int"])
    with pytest.raises(SpecError, match="its source has 1"):
        Spec("__global__ void k(int n) {}", declared)
    renamed = dataclasses.replace(entry, name="j")
    assert Spec("__global__ void j(float x) {}", renamed).entry_point().params == ("float",)
    assert dataclasses.replace(EntryPoint("k", "int n"), name="j") == EntryPoint("j", "int n")


@pytest.mark.parametrize("kind", [Spec, EntryPoint])
def test_values_cannot_be_subclassed(kind):
    """A copy, also in another process, would silently be of the original's class."""
    with pytest.raises(TypeError, match="cannot be subclassed"):
        type("Mine", (kind,), {})


LONG = "k" * 300_000


@pytest.mark.parametrize(
    "make",
    [
        lambda: Spec(SOURCE, LONG + ";"),
        lambda: Spec("__global__ void k() {}", LONG),
        lambda: Spec(SOURCE, "k").entry_point(LONG),
        lambda: Spec(SOURCE, LONG).entry_point("k"),
        lambda: Spec(SOURCE, [LONG, "k"]).entry_point(),
        lambda: Spec(SOURCE, [LONG, LONG]),
        lambda: Spec(SOURCE, "k", params=[LONG + "\0"]),
        lambda: Spec(SOURCE, "k", params="(" + LONG),
        lambda: Spec("__global__ void k(int n) {}", "k", params=LONG),
        lambda: Spec(f"__global__ void k({LONG[:9000]} n) {{}}", "k"),
        lambda: Spec(SOURCE, "k", options=LONG),
        lambda: Spec(SOURCE, "k", defines=[LONG + "="]),
        lambda: Spec(SOURCE, "k", defines=[(LONG, 1, 2)]),
        lambda: Spec(SOURCE, "k", defines={LONG: "\n"}),
        lambda: Spec(SOURCE, "k", headers={"/" + LONG: ""}),
        lambda: Spec(SOURCE, "k", name=LONG + "\n"),
        lambda: Spec(SOURCE, "k", compiler=LONG),
        lambda: Spec.from_file(LONG, "k"),
    ],
)
def test_messages_show_only_the_beginning_of_what_is_long(make):
    """A source that is given as a name by mistake does not fill the log."""
    with pytest.raises(SpecError) as caught:
        make()

    assert len(str(caught.value)) < 5000


def test_representation_of_a_long_entry_point_is_one_short_line():
    """Logs and tracebacks stay readable."""
    entry = EntryPoint(LONG, [LONG])

    assert len(repr(entry)) < 200
    assert repr(EntryPoint("k", "int n")) == "EntryPoint(name='k', params=('int',))"
