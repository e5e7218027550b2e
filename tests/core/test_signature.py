"""The parameters of a kernel are read from its source, where that says them beyond doubt."""

from __future__ import annotations

import copy
import pickle
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ajit._core import cxx
from ajit._core.spec import EntryPoint, Spec
from ajit.errors import SpecError

PARTICLE = "struct Particle { float x; };\n"

# Source, entry point, and the types that the source says.
# fmt: off
READABLE = {
    "plain": ("__global__ void k(float a, const float* x, int n) {}", "k",
              ("float", "const float*", "int")),
    "no parameters": ("__global__ void k() {}", "k", ()),
    "void": ("__global__ void k(void) {}", "k", ()),
    "unnamed": ("__global__ void k(float, unsigned int) {}", "k", ("float", "unsigned int")),
    "extern C": ('extern "C" __global__ void k(int n) {}', "k", ("int",)),
    "extern C block": ('extern "C" {\n__global__ void k(int n) {}\n}', "k", ("int",)),
    "return type first": ("static void __global__ k(int n) {}", "k", ("int",)),
    "launch bounds": ("__global__ void __launch_bounds__(256, (1 + 1)) k(int n) {}", "k", ("int",)),
    "launch bounds before": ("__launch_bounds__(8) __global__ void k(int n) {}", "k", ("int",)),
    "attribute macro": ("__global__ void BOUNDS(256) k(int n) {}", "k", ("int",)),
    "many lines": ("__global__ void\nk(\n  float* x,\n  int n\n)\n{}", "k", ("float*", "int")),
    "comments": ("__global__ void k(int /* a, b */ n, // float x)\n float y) {}", "k",
                 ("int", "float")),
    "kernel in a comment": (("// __global__ void k(float* x)\n/* __global__ void k(char c) {} */\n"
                            "__global__ void k(int n) {}"), "k", ("int",)),
    "kernel in a text": (('const char* s = "__global__ void k(float* x) {}";\n'
                         "__global__ void k(int n) {}"), "k", ("int",)),
    "kernel in a raw text": (('auto s = R"x(__global__ void k(float* x) {}")x";\n'
                             "__global__ void k(int n) {}"), "k", ("int",)),
    "kernel in a macro": (("#define K __global__ void k(float* x) \\\n {}\n"
                          "__global__ void k(int n) {}"), "k", ("int",)),
    "apostrophes": ("const int i = 1'000'000; char c = '\"'; // it's\n__global__ void k(int n) {}",
                    "k", ("int",)),
    "apostrophe in a directive": ("#if 0\n#error don't\n#endif\n__global__ void k(int n) {}", "k",
                                  ("int",)),
    "restrict": ("__global__ void k(const float* __restrict__ x, float *__restrict y) {}", "k",
                 ("const float*", "float*")),
    "array": ("__global__ void k(float x[], const int y[16]) {}", "k", ("float*", "const int*")),
    "reference": ("__global__ void k(const int& n) {}", "k", ("const int&",)),
    "default": ("__global__ void k(int n = f(1, 2), float x = 1.0f) {}", "k", ("int", "float")),
    "grid constant": ("__global__ void k(const __grid_constant__ CUtensorMap m) {}", "k",
                      ("const CUtensorMap",)),
    "attributes": ("__global__ void k([[maybe_unused]] int n) {}", "k", ("int",)),
    "std": ("__global__ void k(std::uint32_t n, size_t m) {}", "k", ("std::uint32_t", "size_t")),
    "vectors": ("__global__ void k(float4 v, dim3 d, const uint2* p) {}", "k",
                ("float4", "dim3", "const uint2*")),
    "namespace": ("namespace a { __global__ void k(int n) {} }", "a::k", ("int",)),
    "declared twice": ("__global__ void k(int);\n__global__ void k(int n) {}", "k", ("int",)),
    "another kernel": ("__global__ void kk(float* x);\n__global__ void k(int n) {}", "k", ("int",)),
    "template": ("template <typename T, int N>\n__global__ void k(T a, const T* x, int n) {}",
                 "k<half, 4>", ("half", "const half*", "int")),
    "template default": ("template <class T, class U = T> __global__ void k(T a, U b) {}",
                         "k<float>", ("float", "float")),
    "template default instead": ("template <class T, class U = T> __global__ void k(T a, U b) {}",
                                 "k<float, int>", ("float", "int")),
    "template in a namespace": ("namespace a { template <typename T> __global__ void k(T x) {} }",
                                "a::k<unsigned char>", ("unsigned char",)),
    "template of a template": (
        ("template <typename T, int N> struct Vec { T x[N]; };\n"
        "template <typename T> __global__ void k(Vec<T, 2> v, Vec<T, 2>* p) {}"),
        "k<float>", ("Vec<float, 2>", "Vec<float, 2>*"),
    ),
    "specialisation": (
        ("template <typename T> __global__ void k(T x) {}\n"
        "template <> __global__ void k<float>(float x) {}"), "k<float>", ("float",),
    ),
    "instance": (("template <typename T> __global__ void k(T x) {}\n"
                 "template __global__ void k<int>(int);"), "k<int>", ("int",)),
    "kernel beside a template": (("template <typename T> __global__ void k(T x) {}\n"
                                 "__global__ void k(int n) {}"), "k", ("int",)),
    "alias": ("using index_t = long long;\n__global__ void k(index_t n) {}", "k", ("long long",)),
    "alias of an alias": ("using a = int; typedef a b;\n__global__ void k(const b n) {}", "k",
                          ("int",)),
    "typedef": ("typedef unsigned char u8;\n__global__ void k(u8 n, u8* p) {}", "k",
                ("unsigned char", "u8*")),
    "own uint32_t": ("typedef unsigned int uint32_t;\n__global__ void k(uint32_t n) {}", "k",
                     ("unsigned int",)),
    "alias of std": ("using uint32_t = std::uint32_t;\n__global__ void k(uint32_t n) {}", "k",
                     ("std::uint32_t",)),
    "struct": (PARTICLE + "__global__ void k(Particle p, struct Particle q) {}", "k",
               ("Particle", "struct Particle")),
    "aligned struct": ("struct alignas(16) P { int n; };\n__global__ void k(P p) {}", "k", ("P",)),
    "typedef struct": (("typedef struct { int n; struct { int m; } s; } P;\n"
                       "__global__ void k(P p) {}"), "k", ("P",)),
    "enum": ("enum Mode { ON, OFF };\n__global__ void k(Mode m) {}", "k", ("int",)),
    "enum class": ("enum class Mode : unsigned char { ON };\n__global__ void k(Mode m) {}", "k",
                   ("unsigned char",)),
    "macro": ("#define REAL float\n__global__ void k(REAL a, REAL* x) {}", "k",
              ("float", "float*")),
    "macro of two words": ("#define IN const float* __restrict__\n__global__ void k(IN x) {}", "k",
                           ("const float*",)),
    "two branches alike": (("#ifdef A\n__global__ void k(int n) {}\n#else\n"
                           "__global__ void k(int m) { return; }\n#endif"), "k", ("int",)),
    "two branches declare one type": (("#ifdef A\ntypedef float T;\n#else\nusing T = float;\n"
                                      "#endif\n__global__ void k(T x) {}"), "k", ("float",)),
    "a branch of its own": ("#ifdef A\n__global__ void k(int n) {}\n#endif", "k", ("int",)),
    "type of one branch": ("#ifdef A\nstruct P { int n; };\n#endif\n__global__ void k(P p) {}",
                           "k", ("P",)),
    "nested branches alike": (("#if A\n#ifdef B\n#define T int\n#else\n#define T int\n#endif\n"
                              "#elif C\n#define T int\n#else\n#define T int\n#endif\n"
                              "__global__ void k(T x) {}"), "k", ("int",)),
    "taken out": ("#if 0\n__global__ void k(int n) {}\n#endif\n__global__ void k(float x) {}", "k",
                  ("float",)),
    "taken out with else": (("#if 0 // old\ntypedef int T;\n#if X\n#else\n#endif\n#else\n"
                            "typedef float T;\n#endif\n__global__ void k(T x) {}"), "k",
                            ("float",)),
    "left in": ("#if 1\ntypedef int T;\n#else\ntypedef float T;\n#endif\n__global__ void k(T x) {}",
                "k", ("int",)),
    "guard of the source": (("// k\n#ifndef K_H\n#define K_H\n#include <cuda_fp16.h>\n"
                             "typedef int T;\n"
                            "__global__ void k(T x) {}\n#endif // K_H\n"), "k", ("int",)),
    "guard in other words": (("#if !defined(K_H)\n#define K_H 1\ntypedef int half;\n"
                             "__global__ void k(half x) {}\n#endif"), "k", ("int",)),
    "default of a macro": ("#ifndef T\n#define T float\n#endif\n__global__ void k(T x) {}", "k",
                           ("float",)),
    "default beside CUDA's headers": (("#include <cuda_fp16.h>\n#ifndef T\n#define T half\n#endif\n"
                                      "__global__ void k(T x) {}"), "k", ("half",)),
    "macro in a comment": (("/*\n#define T int\n*/\ntypedef float T;\n"
                           "__global__ void k(T x) {}"), "k",
                           ("float",)),
    "called elsewhere": (("__global__ void k(int n) {}\nvoid f() { k<<<1, 1>>>(3); if (a) k(4); "
                         "return k(5); }"), "k", ("int",)),
    "overload on the host": ("__global__ void k(int n) {}\nvoid k(float x) { }", "k", ("int",)),
    "name of std": ("using std::uint32_t;\n__global__ void k(uint32_t n) {}", "k",
                    ("std::uint32_t",)),
    "with includes": ("#include <cuda_fp16.h>\n__global__ void k(Other* x, half h) {}", "k",
                      ("Other*", "half")),
}  # fmt: skip


@pytest.mark.parametrize(("source", "entry", "expected"), READABLE.values(), ids=READABLE.keys())
def test_parameters_are_read(source, entry, expected):
    """A spec without ``params`` knows the types that its source says."""
    actual = Spec(source, entry).entry_point().params

    assert expected == actual


# fmt: off
UNREADABLE = {
    "macro makes the list": ("#define P int n\n#define Q(x) x\n__global__ void k(Q(P)) {}", "k"),
    "macro with a comma": ("#define P int n, int m\n__global__ void k(P) {}", "k"),
    "macro of two values": (("#ifdef A\n#define REAL float\n#else\n#define REAL double\n#endif\n"
                            "__global__ void k(REAL x) {}"), "k"),
    "branches with two types": (("#ifdef USE_INT\n#define T int\n#else\ntypedef float T;\n#endif\n"
                                "__global__ void k(T a, float* out) {}"), "k"),
    "macro beside a type": ("typedef float T;\n__global__ void k(T a) {}\n#define T int\n", "k"),
    "macro of one branch": (("#include <types.h>\n#ifdef A\n#define T int\n#endif\n"
                            "__global__ void k(T a) {}"), "k"),
    "macro of an #elif": (("#if A\n#define T int\n#elif B\n#define T int\n#endif\n"
                          "__global__ void k(T a) {}"), "k"),
    "type of one branch and an include": (("#include <types.h>\n#ifdef A\ntypedef int T;\n#endif\n"
                                          "__global__ void k(T a) {}"), "k"),
    "type of one branch and CUDA's": (("#ifdef A\ntypedef int half;\n#endif\n"
                                       "__global__ void k(half a) {}"),
                                      "k"),
    "branches with two of CUDA's": (("#ifdef A\ntypedef int half;\n#else\n"
                                    "typedef float half;\n#endif\n"
                                    "__global__ void k(half a) {}"), "k"),
    "branches with two kernels": (("#ifdef A\n__global__ void k(int n) {}\n#else\n"
                                  "__global__ void k(float x) {}\n#endif"), "k"),
    "kernel of one branch and a macro": (("#define KERNEL __global__ void\n#ifdef OLD\n"
                                         "__global__ void k(int n) {}\n#else\n"
                                         "KERNEL k(float x) {}\n"
                                         "#endif"), "k"),
    "kernel taken out and a macro": (("#define KERNEL __global__ void\n#if 0\n"
                                     "__global__ void k(int n) {}\n#endif\n"
                                     "KERNEL k(float x) {}"), "k"),
    "kernel of one branch and an include": (("#include <kernels.h>\n#ifdef OLD\n"
                                            "__global__ void k(int n) {}\n#endif"), "k"),
    "kernel of one branch and a macro's": (("#define MAKE(name) __global__ void name(float x) {}\n"
                                           "#ifdef OLD\n__global__ void k(int n) {}\n#else\n"
                                           "MAKE(k)\n"
                                           "#endif"), "k"),
    "kernel of a namespace and a macro": (("#define KERNEL __global__ void\n"
                                          "namespace a { __global__ void k(int n) {} }\n"
                                          "namespace b { KERNEL k(float x) {} }"), "b::k"),
    "attribute that makes a kernel": ("__attribute__((global)) void k(float x) {}", "k"),
    "head of a template in one branch": (("#ifdef A\ntemplate <class T>\n#endif\n"
                                         "__global__ void k(int n) {}"), "k<int>"),
    "default of a macro and an include": (("#include <config.h>\n#ifndef T\n"
                                          "#define T float\n#endif\n"
                                          "__global__ void k(T x) {}"), "k"),
    "trigraphs": ("// what??/\n__global__ void k(int n) {}\n__global__ void k(int m) {}", "k"),
    "digraphs": ("%:if 0\n__global__ void k(int n) {}\n%:endif", "k"),
    "macro makes the name": ("#define NAME(x) x\n__global__ void NAME(k)(int n) {}", "k"),
    "macro makes the kernel": ("#define KERNEL __global__ void\nKERNEL k(int n) {}", "k"),
    "directive in the list": ("__global__ void k(int n\n#ifdef A\n, int m\n#endif\n) {}", "k"),
    "overloads": ("__global__ void k(int n) {}\n__global__ void k(float x) {}", "k"),
    "two namespaces": (("namespace a { __global__ void k(int n) {} }\n"
                       "namespace b { __global__ void k(float x) {} }"), "a::k"),
    "type of an include": ("#include <types.h>\n__global__ void k(index_t n) {}", "k"),
    "two aliases": (("struct A { using T = int; }; struct B { using T = float; };\n"
                    "__global__ void k(T x) {}"), "k"),
    "member of a template": (("template <class T> struct V { using type = T; };\n"
                             "__global__ void k(V<int>::type x) {}"), "k"),
    "parameter pack": ("template <typename... Ts> __global__ void k(Ts... xs) {}", "k<int, int>"),
    "template template": ("template <template <class> class V> __global__ void k(V<int> v) {}",
                          "k<Vec>"),
    "function pointer": ("__global__ void k(float (*f)(int)) {}", "k"),
    "reference to an array": ("__global__ void k(int (&a)[4]) {}", "k"),
    "cast": ("__global__ void k(int n) {}", "(void (*)(int))k"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "entry"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_uncertain_parameters_are_not_read(source, entry):
    """Such a kernel can be compiled and loaded, and any ``params`` are taken as they are."""
    spec = Spec(source, entry)
    declared = Spec(source, entry, params=["float", "Other", "char*"])

    assert spec.entry_point().params is None
    assert declared.entry_point().params == ("float", "Other", "char*")


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("#ifndef T\n#define T float\n#endif\n__global__ void k(T x) {}", ["-DT=double"]),
        ("#ifndef T\n#define T float\n#endif\n__global__ void k(T x) {}", ["-D", "T=double"]),
        ("#ifndef T\n#define T float\n#endif\n__global__ void k(T x) {}", ["-include=t.h"]),
        ("#ifndef T\n#define T float\n#endif\n__global__ void k(T x) {}", ["@flags"]),
        ("#ifndef K_H\n#define K_H\n__global__ void k(int x) {}\n#endif", ["-DK_H"]),
    ],
)
def test_option_that_may_define_a_macro_is_a_doubt(source, options):
    """What the options say is for the preprocessor to find out."""
    assert Spec(source, "k").entry_point().params is not None
    assert Spec(source, "k", options=["-I/usr/include"]).entry_point().params is not None
    assert Spec(source, "k", options=options).entry_point().params is None


HEADER = "#ifndef TYPES_H\n#define TYPES_H\ntypedef short T;\n#endif\n"


@pytest.mark.parametrize(
    ("source", "headers", "expected"),
    [
        ('#include "a.h"\n', {"a.h": HEADER}, ("short",)),
        ('#include "b.h"\n#include "a.h"\n', {"a.h": HEADER, "b.h": '#include "a.h"\n'},
         ("short",)),
        ('#include "b.h"\n', {"a.h": HEADER, "b.h": '#pragma once\n#include "a.h"\n'},
         ("short",)),
        ('#ifdef A\n#include "a.h"\n#else\ntypedef int T;\n#endif\n', {"a.h": HEADER}, None),
        ('#ifdef A\n#include "a.h"\n#else\n#include <types.h>\n#endif\n', {"a.h": HEADER}, None),
        ("#include <types.h>\n", {"a.h": HEADER}, None),
        ('#include "a.h"\n#include "b.h"\n',
         {"a.h": HEADER, "b.h": HEADER.replace("short", "int")}, None),
    ],
)  # fmt: skip
def test_guarded_headers_count_where_they_are_included(source, headers, expected):
    """A guard around a whole header is no doubt; a header that may not be included is one."""
    spec = Spec(source + "__global__ void k(T x) {}", "k", headers=headers)

    assert expected == spec.entry_point().params


def test_command_line_macros_are_replaced():
    """A kernel that is specialised by ``defines`` has the types that they say."""
    source = "__global__ void k(REAL a, const REAL* x) {}"

    half = Spec(source, "k", defines={"REAL": "half"}).entry_point().params
    double = Spec(source, "k", defines={"REAL": "double"}).entry_point().params

    assert half == ("half", "const half*")
    assert double == ("double", "const double*")


def test_macro_of_the_source_and_the_command_line_is_not_certain():
    """Which of the two holds is for the preprocessor to say."""
    source = "#ifndef REAL\n#define REAL float\n#endif\n__global__ void k(REAL a) {}"

    assert Spec(source, "k", defines={"REAL": "half"}).entry_point().params is None
    assert Spec(source, "k", defines={"REAL": "float"}).entry_point().params == ("float",)


def test_virtual_headers_are_read_as_well():
    """A kernel and its types may be in a header that comes with the spec."""
    headers = {"types.h": "using index_t = short;\n", "k.cuh": "__global__ void k(index_t n) {}\n"}
    spec = Spec('#include "types.h"\n#include "k.cuh"\n', "k", headers=headers)

    assert spec.entry_point().params == ("short",)


def test_two_kernels_of_one_source_need_no_declarations():
    """Several names are enough; each kernel has its own parameters."""
    spec = Spec("__global__ void a(int n) {}\n__global__ void b(float* x) {}", ["a", "b"])

    assert spec.entry_point("a").params == ("int",)
    assert spec.entry_point("b").params == ("float*",)


# --- mistakes that are found early ---


@pytest.mark.parametrize(
    ("source", "name", "hint"),
    [
        ("__global__ void k(floot a) {}", "floot", "; did you mean 'float'?"),
        ("__global__ void k(const flaot* x) {}", "flaot", "; did you mean 'float'?"),
        ("__global__ void k(uint32 n) {}", "uint32", "; did you mean 'uint32_t'?"),
        ("__global__ void k(Xyzzy x) {}", "Xyzzy", ""),
        ("template <class T> __global__ void k(T x, U y) {}", "U", ""),
    ],
)
def test_type_that_nothing_declares_is_an_error_with_the_nearest_name(source, name, hint):
    """Where nothing is included, the type can come from nowhere else."""
    entry = "k<int>" if "template" in source else "k"

    with pytest.raises(SpecError) as caught:
        Spec(source, entry)

    assert str(caught.value) == f"the source uses the type {name!r}, which nothing declares{hint}"


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("#include <types.h>\n__global__ void k(floot* a) {}", {}),
        ("__global__ void k(floot* a) {}", {"options": ["-include=types.h"]}),
        ("__global__ void k(floot* a) {}", {"options": ["-Dfloot=float"]}),
        ("__global__ void k(floot* a) {}", {"defines": {"floot": "float"}}),
        ("#define MAKE(x) struct x {};\nMAKE(floot)\n__global__ void k(floot* a) {}", {}),
        ("using ns::floot;\n__global__ void k(floot* a) {}", {}),
        ("struct floot;\n__global__ void k(floot* a) {}", {}),
        ("typedef void (*floot)(int);\n__global__ void k(floot* a) {}", {}),
        ("__global__ void k(cudaSomething_t* a, __nv_something* b, ns::floot* c) {}", {}),
    ],
)
def test_type_that_may_come_from_elsewhere_is_no_error(source, options):
    """An include, an option or a macro may declare it: that is for the compiler to say."""
    assert Spec(source, "k", **options).entry_names == ("k",)


def test_kernel_that_the_source_does_not_have_is_an_error_with_the_nearest_name():
    """Where no include and no macro can make the name, nothing needs to be compiled to know."""
    with pytest.raises(SpecError, match=r"no kernel 'saxpi'; did you mean 'saxpy'\?"):
        Spec("__global__ void saxpy(int n) {}", "saxpi")


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("#include <k.h>", {}),
        ("#define CAT(a, b) a##b\n__global__ void CAT(k, 1)() {}", {}),
        ("__global__ void NAME() {}", {"defines": {"NAME": "k1"}}),
        ("__global__ void NAME() {}", {"options": ["-DNAME=k1"]}),
        ('#include "k.h"', {"headers": {"k.h": "__global__ void k1() {}"}}),
    ],
)
def test_kernel_whose_name_may_come_from_elsewhere_is_no_error(source, options):
    """An include, a macro or an option may make the name."""
    assert Spec(source, "k1", **options).entry_names == ("k1",)


CONTRADICTIONS = {
    "swapped": ("int n, float a", "[0] of kernel 'k' is 'int', but its source has 'float'"),
    "pointer": ("float* a, int n", "[0] of kernel 'k' is 'float*', but its source has 'float'"),
    "wider": ("float a, long n", "[1] of kernel 'k' is 'long', but its source has 'int'"),
    "unknown": ("floot a, int n", "[0] of kernel 'k' is 'floot', but its source has 'float'"),
    "too few": ("float a", " of kernel 'k' name 1 types, its source has 2"),
    "too many": ("float a, int n, int m", " of kernel 'k' name 3 types, its source has 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_declaration_that_contradicts_the_source_shows_both(case):
    """Which parameter differs, and the two lists below each other."""
    params, expected = CONTRADICTIONS[case]

    with pytest.raises(SpecError) as caught:
        Spec("__global__ void k(float a, int n) {}", "k", params=params)

    first, given, source = str(caught.value).splitlines()
    assert first == f"params{expected}"
    assert given == f"  params: ({', '.join(EntryPoint('k', params).params)})"
    assert source == "  source: (float, int)"


@pytest.mark.parametrize(
    ("source", "entry", "params"),
    [
        ("__global__ void k(float* x, int n) {}", "k", "const float* x, unsigned n"),
        ("__global__ void k(std::int32_t n) {}", "k", "int n"),
        ("using index_t = int;\n__global__ void k(index_t n) {}", "k", "index_t n"),
        ("template <class T> __global__ void k(T x) {}", "k<float>", "T x"),
        (PARTICLE + "__global__ void k(Particle p) {}", "k", "Particle p"),
        ("#define REAL float\n__global__ void k(REAL a) {}", "k", "REAL a"),
    ],
)
def test_declaration_in_other_words_agrees(source, entry, params):
    """Types of the same kind and size are the same parameter for a launch."""
    assert len(Spec(source, entry, params=params).entry_point().params) == params.count(",") + 1


def test_declared_alias_is_what_the_source_says():
    """A launch knows nothing of the source: it needs the type behind the name."""
    source = "using index_t = int;\n__global__ void k(index_t n) {}"

    assert Spec(source, "k", params="index_t n").entry_point().params == ("int",)


FUNCTIONS = {
    "plain": "void add(int n) {}",
    "on the device": "__device__ __forceinline__ float add(float x) { return x; }",
    "beside CUDA's headers": '#include <cuda_fp16.h>\nextern "C" void add(half* x)\n{ }',
    "template": "template <typename T> static T* add(const T* x) { return nullptr; }",
    "beside a kernel": "__global__ void k(int n) {}\nnamespace a { struct S {}; S add() { } }",
    "in a branch": "#ifdef A\nint add(int n) { return n; }\n#endif",
}


@pytest.mark.parametrize("source", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_function_that_is_no_kernel_is_an_error(source):
    """Else the launch would ask for ``params``, which does not help."""
    with pytest.raises(SpecError) as caught:
        Spec(source, "add")

    assert str(caught.value) == "add is a function without __global__, and no kernel"


@pytest.mark.parametrize(
    "source",
    [
        "#define K __global__\nK void add(int n) {}",
        "#define M(name) __global__ void name() {}\nM(add)\nvoid add(int n) {}",
        '#include "mine.h"\nvoid add(int n) {}',
        "__attribute__((global)) void add(int n) {}",
        "__global__ void (add)(float x) {}\nvoid add(int n) {}",
        "#define NAME add\n__global__ void NAME(float x) {}\nvoid add(int n) {}",
        "void f() { add(3); }",
    ],
)
def test_function_that_may_be_a_kernel_is_no_error(source):
    """A macro or an include may make a kernel of that name."""
    assert Spec(source, "add").entry_point().params is None


TWO = "template <typename T, int N, bool B> __global__ void tw(T x) {}"


@pytest.mark.parametrize(
    ("source", "entry", "expected"),
    [
        ("template <class T> __global__ void tw(T x) {}", "tw",
         "tw is a template; name an instance of it, such as tw<float>"),
        (TWO, "a::tw", "tw is a template; name an instance of it, such as tw<float, 4, true>"),
        ("template <class T, int N = 4> __global__ void tw(T x) {}", "tw",
         "tw is a template; name an instance of it, such as tw<float>"),
        (TWO, "tw<float>", "tw takes 3 template arguments, 1 given"),
        (TWO, "tw<>", "tw takes 3 template arguments, 0 given"),
        ("template <class T> __global__ void tw(T x) {}", "tw<V<int, 4>, 5>",
         "tw takes 1 template argument, 2 given"),
        (("template <class T> __global__ void tw(T x) {}\n"
          "template <> __global__ void tw<int>(int) {}"), "tw<int, int>",
         "tw takes 1 template argument, 2 given"),
    ],
)  # fmt: skip
def test_template_that_lacks_its_arguments_is_an_error(source, entry, expected):
    """It is known from the source, and a compile would say it in other words."""
    with pytest.raises(SpecError) as caught:
        Spec(source, entry)

    assert expected == str(caught.value)


@pytest.mark.parametrize(
    ("source", "entry"),
    [
        ("template <class T, int N = 4> __global__ void tw(T x) {}", "tw<float>"),
        ("template <class... T> __global__ void tw(T... x) {}", "tw<float, int>"),
        ("template <class T> __global__ void tw(T x) {}\n__global__ void tw(int n) {}", "tw"),
        ("#include <mine.h>\ntemplate <class T> __global__ void tw(T x) {}", "tw"),
        ("#define HEAD template <int N>\nHEAD __global__ void tw(int x) {}", "tw"),
    ],
)
def test_template_that_may_have_its_arguments_is_no_error(source, entry):
    """Defaults, packs, overloads and includes are for the compiler."""
    assert Spec(source, entry).entry_names == (entry,)


def test_messages_about_long_names_are_short():
    """A name of 300 KB is in no log."""
    with pytest.raises(SpecError) as caught:
        Spec("__global__ void k() {}", "k" * 300_000)
    assert len(str(caught.value)) < 400
    name = "k" * 3000
    for source in ("__global__ void k() {}", f"void {name}() {{}}",
                   f"template <class T> __global__ void {name}(T x) {{}}"):  # fmt: skip
        with pytest.raises(SpecError) as caught:
            Spec(source, name)
        assert len(str(caught.value)) < 400


# --- read once, from the right source ---


def test_another_source_is_read_anew():
    """`with_` keeps what was declared, and reads again what was read."""
    first = Spec("__global__ void k(int n) {}", "k")

    assert first.with_(source="__global__ void k(float x) {}").entry_point().params == ("float",)
    with pytest.raises(SpecError, match="source has 'float'"):
        first.with_(params="int n", entries="k", source="__global__ void k(float x) {}")
    # An entry point that is taken over from another spec.
    assert Spec("__global__ void k(char c) {}", first.entries).entry_point().params == ("char",)


def test_copies_remember_what_was_read():
    """Also in another process."""
    spec = Spec("__global__ void k(int n) {}", "k")

    for made in (copy.copy(spec), copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):  # noqa: S301  # our own
        again = made.with_(source="__global__ void k(float x) {}")
        assert made == spec
        assert again.entry_point().params == ("float",)


def test_declared_and_read_parameters_make_equal_specs():
    """A spec is compared by what it says, and not by how it was written."""
    source = "__global__ void k(float a, int n) {}"

    assert Spec(source, "k") == Spec(source, "k", params="float a, int n")
    assert hash(Spec(source, "k")) == hash(Spec(source, "k", params=("float", "int")))


# --- any text ---

HOSTILE = [
    "(", ")", "{", "}", "<", ">", "/*", "/* ", '"', "'", "1'", 'R"(', "#", "#define ", "\\", "\\\n",
    " ", "a", "*", "template<", "template <class T, ", "__global__", "__global__ ", "__global__(",
    "__global__ k(", "__global__ void k(int n){}\n", "typedef ", "typedef T ", "using T = int;",
    "struct T {} x;", "} T;", "<T", "T ", "enum T:", "#define T T\n", "k(", "[[",
    "#if 0\n", "#if A\n", "#else\n", "#endif\n", "#ifndef T\n#define T\n", "#include <a\n", "A k(",
    "k::", "a::k(", "T k(", "template <", "A(k)", "void k() {", "alignas(", "=",
]  # fmt: skip
TAILS = {"": "k", "\n*/\"'\n__global__ void k(T x, T* y) {}": "k",
         "\ntemplate <typename T> __global__ void k(T x, float* y) {}": "k<int>"}  # fmt: skip
HALF_A_MEGABYTE = 512 * 1024
LIMIT_SECONDS = 10.0
"""Reading takes 10 to 700 ms. A quadratic reader would take many minutes."""


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_source_is_read_in_linear_time(piece):
    """No text makes a pattern look at it again and again, and none raises but as a `SpecError`."""
    started = time.process_time()
    for tail, entry in TAILS.items():
        try:
            Spec(piece * (HALF_A_MEGABYTE // len(piece)) + tail, entry)
        except SpecError:
            continue

    assert time.process_time() - started < LIMIT_SECONDS


TREE = "".join(f"#define A{i} " + f"A{i + 1} " * 8 + "\n" for i in range(9))
BOMBS = {
    "macros of macros": (TREE + "__global__ void k(A0 a){}", "k"),
    "macros of macros as pointers": (TREE + "__global__ void k(A0* a){}", "k"),
    "a long macro": ("#define A " + "int " * 200_000
                     + "\n__global__ void k(" + "A " * 5000 + ") {}",
                     "k"),
    "many kernels": (
        TREE.replace("A5 " * 8, "A5 A5")
        + "".join(f"__global__ void k(A0 a{i});" for i in range(9999)),
        "k",
    ),
    "defaults of a template": (
        "template <class T0, "
        + ", ".join(f"class T{i + 1} = V<T{i}, T{i}>" for i in range(40))
        + "> __global__ void k(T40 x) {}",
        "k<int>",
    ),
    "a long argument": (
        "template <class T> __global__ void k(" + "V<T> x, " * 5000 + "T y) {}",
        f"k<{'x' * 100_000}>",
    ),
    "many types": (
        "".join(f"t{i} x;" for i in range(9999)) + "__global__ void k("
        + ", ".join(f"t{i} x" for i in range(2000)) + ") {}",
        "k",
    ),
    "attributes that do not end": (("__global__ void k(" + "[[" * 9000 + "a);") * 25, "k"),
    "deep conditions": ("#if A\n" * 90_000 + "__global__ void k(int n) {}", "k"),
    "many branches": ("#if A\n#else\n" + "typedef int T;\n#elif B\n" * 40_000
                      + "#endif\n__global__ void k(T x) {}", "k"),
    "many other functions": ("void f() {}\n" + "k & k(1);" * 60_000, "k"),
    "many guards": ("#ifndef A\n#define A\n#endif\n" * 30_000 + "__global__ void k(A n) {}", "k"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "entry"), BOMBS.values(), ids=BOMBS.keys())
def test_text_that_stands_for_much_more_is_not_read(source, entry):
    """Macros and defaults may double at each step: then the list is not known, in no time."""
    tracemalloc.start()
    started = time.process_time()
    try:
        params = Spec(source, entry).entry_point().params
    except SpecError:
        params = None
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert params is None
    assert seconds < LIMIT_SECONDS
    assert peak < 64 * 1024 * 1024 + 100 * len(source)


PIECES = st.sampled_from(
    ["__global__", " void ", "k", "(", ")", "{}", "<", ">", ",", ";", "T", "template", "typename ",
     "int ", "float", "* ", "&", "[", "]", "=", "#define ", "\n", "//", "/*", "*/", '"', "'", "::",
     "using ", "typedef ", "struct ", "enum ", "1", "\\", "...", "const ", " "]
)  # fmt: skip


@given(st.lists(PIECES, max_size=40), st.sampled_from(["k", "k<int>", "k<T, 4>", "a::k<>"]))
def test_any_source_is_read_or_refused(pieces, entry):
    """Nothing but a `SpecError` comes out, and what is read are types."""
    try:
        params = Spec("k " + "".join(pieces), entry).entry_point().params
    except SpecError:
        return

    assert params is None or all(isinstance(item, str) and item for item in params)


def test_answers_are_kept_within_limits(monkeypatch):
    """A server that makes specs for ever keeps the last answers, and reads right all the while."""
    monkeypatch.setattr(cxx, "_ANSWERS_KEPT", 4)
    source = "__global__ void k(REAL x) {}"
    types = ["float", "double", "half", "int", "char", "float", "double"]

    actual = [Spec(source, "k", defines={"REAL": t}).entry_point().params for t in types]

    assert [(t,) for t in types] == actual
    assert len(cxx.read_cxx(source, ()).answers) <= 4
