// The qualifiers of CUDA C++ as a host compiler can have them.
#ifndef AJIT_CPU_QUALIFIERS_HPP
#define AJIT_CPU_QUALIFIERS_HPP

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __inline_hint__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __maxnreg__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __attribute__((aligned(n)))
#define __nv_pure__ __attribute__((pure))

// Shared memory is thread-local: all threads of a block run on one OS thread. In a function
// `thread_local` means static, and `extern __shared__ T name[]` is an undefined thread-local symbol
// that the driver resolves (../cpu_driver/elf.c). __constinit says that no code initialises it,
// which g++ else allows for; clang rejects the word for types like __half, whose default
// constructor does nothing.
#if defined(__clang__) || __GNUC__ < 10
#define __shared__ thread_local
#else
#define __shared__ __constinit thread_local
#endif

#endif
