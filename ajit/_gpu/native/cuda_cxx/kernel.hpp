// CUDA C++ for the CPU driver: what a host C++ compiler needs to build unmodified kernels.
//
// How a translation unit is formed (the compile layer does this):
//
//   c++ -std=c++17 FLAGS -include cuda_cxx/kernel.hpp unit.cpp -o image.so
//   include path: this folder's include/, and the folder above, before the system's headers
//
// FLAGS are those of ajit/_compile/worker/host_flags.py, which gives the reason of each, and
// where unit.cpp is, in this order:
//
//   #line 1 "<the name the user gave to the source>"
//   <the user's source, as it is>
//   #line 1 "<ajit entry points>"
//   AJIT_CPU_MODULE(AJIT_CPU_KERNEL("saxpy", saxpy), AJIT_CPU_KERNEL("add<float>", add<float>))
//
// Each entry is the name by which cuModuleGetFunction finds the kernel, and the expression for it
// (a leading `&` is allowed). Parameter types are taken from the function itself. An unknown name
// is an error in the file "<ajit entry points>"; the Nth line there may hold the Nth entry.
//
// What differs from a GPU, on purpose:
// - `__CUDA_ARCH__` is 750, the oldest that CUDA 13 knows: source that asks for more does so for
//   inline PTX.
//   `__CUDACC__` is not defined; `__AJIT_CPU__` is.
// - Threads of a block take turns; one gives way only where it waits (barriers, warp operations) or
//   calls __nanosleep(). A loop that spins on memory without that may spin for ever.
// - A block may use AJIT_CPU_STACK_BYTES (64 KiB) of local memory a thread.
// Template parameters here end in an underscore: servers specialise kernels by -DN=..., -DT=...,
// and a macro of the user's must not rewrite these headers. What is missing (inline PTX, tensor
// cores, cooperative groups, CUB, textures) is an error that says so.
#ifndef AJIT_CPU_KERNEL_HPP
#define AJIT_CPU_KERNEL_HPP

#if !defined(__cplusplus) || __cplusplus < 201703L
#error "the CPU driver needs a C++17 compiler"
#endif

#include <features.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"

#define __AJIT_CPU__ 1
#define __CUDA_ARCH__ 750

#include "qualifiers.hpp"
#include "vector.hpp"
#include "thread.hpp"
#include "libc.hpp"
#include "sync.hpp"
#include "atomic.hpp"
#include "bits.hpp"
#include "math.hpp"
#include "convert.hpp"
#include "module.hpp"

// Last, because this file's own headers and the C library's use the other spellings of it.
#define asm                                                                \
    static_assert(false, "the CPU driver does not have inline PTX (asm)"); \
    __asm__

#endif
