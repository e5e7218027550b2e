// Shim for the CPU driver: kernel.hpp has the C library's functions and CUDA's overloads already.
// LLVM's <cmath> insists on its own <math.h>; GNU's goes past this file by itself.
#ifdef _LIBCPP_CMATH
#include_next <math.h>
#endif
