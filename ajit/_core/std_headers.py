"""The C++ standard library for NVRTC, as far as libcu++ has it: virtual headers for a spec.

NVRTC comes without a standard library: ``#include <cstdint>`` is an error. NVIDIA's libcu++ has
much of it in ``cuda::std``. Each header here includes libcu++'s of the same name and lets ``std``
see what is in ``cuda::std``. For the other compilers, which have a standard library, it is only a
step on the way to theirs. So one spec goes to all of them.
"""

from __future__ import annotations

import re

__all__ = ["missing_std_note", "std_headers"]

_CPP = """
algorithm array atomic barrier bit bitset cassert ccomplex cfloat charconv chrono climits cmath
complex concepts cstddef cstdint cstdlib cstring ctime execution expected functional
initializer_list iterator latch limits linalg mdspan memory numbers numeric optional random ranges
ratio semaphore source_location span string_view tuple type_traits utility variant version
"""
"""What libcu++ 3.5 has. An older one lacks some: including these is then an error that says so."""

_C = "assert float limits math stddef stdint stdlib string time"

_NOT_THERE = """
any cctype cerrno cfenv cinttypes clocale codecvt compare complex.h condition_variable coroutine
csetjmp csignal cstdarg cwchar cwctype deque exception filesystem format forward_list fstream future
iomanip ios iosfwd iostream istream list locale map memory_resource mutex new ostream queue regex
scoped_allocator set shared_mutex sstream stack stdexcept stop_token streambuf string syncstream
system_error thread typeindex typeinfo unordered_map unordered_set vector
"""
"""The rest of the standard library, for messages."""

_STDIO = """\
namespace std { using ::printf; }
"""

_MISSING = re.compile(r'(?:could not|cannot) open source file "([\w.]+)"')


def std_headers() -> dict[str, str]:
    """Return virtual headers that give NVRTC the C++ standard library of libcu++.

    For ``Spec(..., headers=ajit.std_headers())``, or beside others:
    ``headers={**ajit.std_headers(), "mine.h": text}``. ``std::uint32_t``, ``std::max``,
    ``std::tuple`` and the like are then what ``cuda::std`` has. They need CCCL's headers
    (``pip install 'ajit[headers]'``). Other compilers are not changed: they take their own headers.

    Returns:
        Include names to texts, a new dictionary each time.
    """
    headers = {name: _text(name, _mapped(name)) for name in _CPP.split()}
    headers |= {f"{name}.h": _text(f"{name}.h", f"#include <c{name}>\n") for name in _C.split()}
    return headers | {"cstdio": _text("cstdio", _STDIO), "stdio.h": _text("stdio.h", _STDIO)}


def missing_std_note(compiler: str, log: str) -> str | None:
    """Return what to do about a header of the standard library that NVRTC does not have.

    Args:
        compiler: Compiler and version.
        log: What it printed.
    """
    found = _MISSING.search(log) if compiler.startswith("nvrtc") else None
    if found is None:
        return None
    name = found[1]
    if name in std_headers():
        return (
            f"NVRTC has no C++ standard library, so no <{name}>: give the spec "
            "headers=ajit.std_headers() (on the command line: --std-headers), or include "
            f"<cuda/std/{_cpp_name(name)}> and use cuda::std, or compile with nvcc "
            '(compiler="nvcc", --compiler nvcc)'
        )
    if name in _NOT_THERE.split():
        return (
            f"NVRTC has no C++ standard library, so no <{name}>, and libcu++ has none either: "
            'compile with nvcc (compiler="nvcc", --compiler nvcc), or leave it out where '
            "__CUDACC_RTC__ is defined"
        )
    return None


def _cpp_name(name: str) -> str:
    return f"c{name[:-2]}" if name.endswith(".h") else name


def _mapped(name: str) -> str:
    return f"""\
#if !__has_include(<cuda/std/{name}>)
#error "libcu++ (CCCL) is not there, or is of a version that has no <cuda/std/{name}>"
#endif
#include <cuda/std/{name}>
namespace cuda {{ namespace std {{}} }}
namespace std {{ using namespace cuda::std; }}
"""


def _text(name: str, for_nvrtc: str) -> str:
    return f"""\
#pragma once
#ifndef __CUDACC_RTC__
#include_next <{name}>
#else
{for_nvrtc}#endif
"""
