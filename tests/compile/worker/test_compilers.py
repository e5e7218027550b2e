"""Behaviour that all compilers share: NVRTC, nvcc and the host's C++ compiler, the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ajit._core.elf import kernel_symbols
from ajit.errors import (
    CompileError,
    CompileOutputExceeded,
    CompilerCrashed,
    UnknownArch,
    UnknownEntryPoint,
)
from tests.compile.support import SCALE, Bench, job

if TYPE_CHECKING:
    from pathlib import Path

Fields = dict[str, Any]


def test_entries_get_their_lowered_names(bench: Bench, compiler: Fields) -> None:
    """Template instances, C names, plain names and those in namespaces, in one image."""
    source = (
        SCALE
        + "__global__ void cpp(int* x) { *x = 1; }\n"
        + "namespace { __global__ void hidden(int* x) { *x = 2; } }"
    )
    entries = ("scale<float, 4>", "plain", "cpp", "hidden", "scale<unsigned, 2>")
    output = bench.compile(job(source, entries, **compiler))

    assert tuple(output.lowered) == entries
    assert output.data[:4] == b"\x7fELF"
    if compiler["compiler"] == "host":
        assert output.kind == "elf"
        assert output.lowered["scale<float, 4>"] == "scale<float, 4>"
    else:
        assert output.kind == "cubin"
        assert output.lowered["scale<float, 4>"] == "_Z5scaleIfLi4EEvPT_"
        assert set(output.lowered.values()) == kernel_symbols(output.data)


def test_name_expressions_mean_the_same_to_all(bench: Bench, compiler: Fields) -> None:
    """Addresses, casts that choose an overload, characters: nvcc has no name expressions itself."""
    source = """
    namespace a { namespace b {
    template <class T, int N> __global__ void f(T *x) { x[0] = N; }
    } }
    __global__ void over(float *x) { x[0] = 1; }
    __global__ void over(int *x) { x[0] = 1; }
    template <char C> __global__ void k(int *x) { x[0] = C; }
    """
    lowered = {
        "&a::b::f<float, 4>": "_ZN1a1b1fIfLi4EEEvPT_",
        "(&a::b::f<int, 4>)": "_ZN1a1b1fIiLi4EEEvPT_",
        "(void(*)(float*))over": "_Z4overPf",
        "static_cast<void(*)(int*)>(over)": "_Z4overPi",
        "k<'a'>": "_Z1kILc97EEvPi",
    }
    output = bench.compile(job(source, tuple(lowered), **compiler))
    own = {entry: entry for entry in lowered}  # a host compiler's image has a table

    assert output.lowered == (own if compiler["compiler"] == "host" else lowered)


def test_a_header_with_a_byte_order_mark_works_or_the_error_says_why(
    bench: Bench, compiler: Fields, tmp_path: Path
) -> None:
    """NVRTC refuses one, and shows a character that cannot be seen."""
    (tmp_path / "marked.h").write_bytes(b"\xef\xbb\xbf#define VALUE 1\n")
    source = '#include "marked.h"\nextern "C" __global__ void plain(int* x) { x[0] = VALUE; }'
    given = job(source, include_dirs=(str(tmp_path),), **compiler)
    if compiler["compiler"] != "nvrtc":
        assert bench.compile(given).data
        return
    with pytest.raises(CompileError) as caught:
        bench.compile(given)

    assert "byte order mark" in caught.value.__notes__[0]


def test_a_syntax_error_is_reported_with_its_line(bench: Bench, compiler: Fields) -> None:
    """The log names the spec's label and the user's line, and no path of this machine."""
    with pytest.raises(CompileError) as caught:
        bench.compile(job(SCALE + "\nint x = ;\n", name="models/rope", **compiler))

    assert type(caught.value) is CompileError
    assert any(place in caught.value.log for place in ("rope.cu(5)", "rope.cu:5:"))
    assert "/tmp" not in caught.value.log
    assert "ajit_entry" not in caught.value.log
    assert caught.value.key == "ab" * 32


@pytest.mark.parametrize("entry", ["nope", "scale", "counter"])
def test_an_unknown_entry_is_told_from_a_bad_source(
    bench: Bench, compiler: Fields, entry: str
) -> None:
    """Also a template without its arguments, and a name that is no kernel's."""
    with pytest.raises(UnknownEntryPoint) as caught:
        bench.compile(job(SCALE + "__device__ int counter;", ("plain", entry), **compiler))

    assert caught.value.entry == entry
    assert entry in str(caught.value)


ASSERTING = """
template <class T, int N> __global__ void scale(T* x) { static_assert(N < 4, "N is too large"); }
template <class C> struct Tile {
    static_assert(C::rows > 3, "bad tile");
    struct Params { int a; };
};
struct Small { static const int rows = 1; };
template <class K> __global__ void run(typename K::Params p) {}
extern "C" __global__ void plain(float* x) { x[0] = 1; }
"""


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (("scale<float, 5>",), "N is too large"),
        (("plain", "scale<float, 5>"), "N is too large"),
        (("run<Tile<Small>>",), "bad tile"),
    ],
)
def test_an_assertion_inside_an_instantiated_template_is_a_compile_error(
    bench: Bench, compiler: Fields, entries: tuple[str, ...], says: str
) -> None:
    """The kernel exists; what is wrong with it is said, also where its signature asserts."""
    with pytest.raises(CompileError) as caught:
        bench.compile(job(ASSERTING, entries, **compiler))

    assert type(caught.value) is CompileError
    assert says in caught.value.log


def test_a_template_with_wrong_arguments_is_an_unknown_entry(
    bench: Bench, compiler: Fields
) -> None:
    """No instance of it is meant."""
    with pytest.raises(UnknownEntryPoint):
        bench.compile(job(SCALE, ("scale<float, 1, 2>",), **compiler))


@pytest.mark.parametrize("arch", ["sm_91", "sm_80a", "sm_999", "riscv64"])
def test_an_unknown_arch_names_the_known_ones(bench: Bench, compiler: Fields, arch: str) -> None:
    """Nothing is compiled, and the source is not blamed."""
    with pytest.raises(UnknownArch) as caught:
        bench.compile(job(**{**compiler, "arch": arch}))

    assert caught.value.arch == arch
    assert caught.value.known


def test_macros_headers_and_include_dirs_reach_the_compiler(
    bench: Bench, compiler: Fields, tmp_path: Path
) -> None:
    """Virtual headers, the user's directories, and macros with and without a value."""
    (tmp_path / "real.cuh").write_text('#pragma once\n#include "near.cuh"\n')
    (tmp_path / "near.cuh").write_text("constexpr int real = 2;\n")
    source = """
    #include "real.cuh"
    #include <lib/virtual.cuh>
    #ifndef BARE
    #error "BARE is not defined"
    #endif
    static_assert(real + virtual_ + VALUE == 9 && sizeof(TEXT) == 4, "");
    extern "C" __global__ void plain(float* x) { x[0] = VALUE; }
    """
    output = bench.compile(
        job(
            source,
            include_dirs=(str(tmp_path),),
            headers=(("lib/virtual.cuh", "constexpr int virtual_ = 3;"),),
            defines=(("BARE", None), ("TEXT", '"a b"'), ("VALUE", "4")),
            **compiler,
        )
    )

    assert "-DVALUE=4" in output.command
    assert str(tmp_path) not in repr((output.command, output.log))


def test_a_missing_include_is_the_compilers_error(bench: Bench, compiler: Fields) -> None:
    """Only it knows whether the branch is taken."""
    bench.compile(job('#if 0\n#include "none.cuh"\n#endif\n' + SCALE, **compiler))
    with pytest.raises(CompileError, match=r"none\.cuh"):
        bench.compile(job('#include "none.cuh"\n' + SCALE, **compiler))


def test_an_unknown_option_is_a_compile_error(bench: Bench, compiler: Fields) -> None:
    """Not a crash: the request is at fault."""
    with pytest.raises(CompileError, match="no-such-flag"):
        bench.compile(job(options=("--no-such-flag",), **compiler))


def test_the_users_standard_wins(bench: Bench, compiler: Fields) -> None:
    """C++17 is only the default."""
    source = SCALE + 'static_assert(__cplusplus > 201703L, "");'
    output = bench.compile(job(source, options=("-std=c++20",), **compiler))

    assert "-std=c++17" not in output.command


def test_text_that_is_not_ascii_survives(bench: Bench, compiler: Fields) -> None:
    """In the source, and in what the compiler prints of it."""
    bench.compile(job("// größe ≤ 4 µs\n" + SCALE, **compiler))
    with pytest.raises(CompileError, match="größe"):
        bench.compile(job(SCALE + '#error "größe"', **compiler))


def test_the_same_job_gives_the_same_bytes(bench: Bench, compiler: Fields) -> None:
    """The private folder of a job leaves no trace in an artifact."""
    first = bench.compile(job(entries=("plain", "scale<int, 2>"), **compiler))
    second = bench.compile(job(entries=("plain", "scale<int, 2>"), **compiler))

    assert first.data == second.data
    assert b"/tmp" not in first.data


def test_a_result_above_the_limit_is_refused(compiler: Fields) -> None:
    """A distinct error with both figures, not the source's."""
    bench = Bench(compile_output_limit_bytes=2000)
    try:
        with pytest.raises(CompileOutputExceeded) as caught:
            bench.compile(job(**compiler))
    finally:
        bench.close()

    assert caught.value.size_bytes > caught.value.limit_bytes == 2000


def test_a_ten_megabyte_source_compiles(bench: Bench, compiler: Fields) -> None:
    """Generated kernels are long; this one is mostly comment."""
    padding = "// generated text that the compiler skips, with a quote ' and a hash # in it\n"
    output = bench.compile(job(padding * (10_000_000 // len(padding)) + SCALE, **compiler))

    assert output.lowered["plain"] == "plain"


def test_a_virtual_header_cannot_leave_its_folder(bench: Bench, compiler: Fields) -> None:
    """A name with ``..`` is refused by the compilers that need a file for it."""
    if compiler["compiler"] == "nvrtc":
        pytest.skip("NVRTC takes headers in memory")
    with pytest.raises(CompilerCrashed, match="leads out"):
        bench.compile(job(headers=(("../../evil.h", ""),), **compiler))
