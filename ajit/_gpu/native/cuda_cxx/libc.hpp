// The part of the C library that device code may call, declared here: including <cstdio> and
// <cmath> would take longer to compile than most kernels.
#ifndef AJIT_CPU_LIBC_HPP
#define AJIT_CPU_LIBC_HPP

#if defined(__GLIBC__)
// As glibc declares them, should the user include its headers too.
#define AJIT_CPU_NOEXCEPT noexcept
#else
#define AJIT_CPU_NOEXCEPT
#endif

extern "C" {
int printf(const char *, ...);
void *malloc(size_t) AJIT_CPU_NOEXCEPT;
void free(void *) AJIT_CPU_NOEXCEPT;
void *memcpy(void *__restrict, const void *__restrict, size_t) AJIT_CPU_NOEXCEPT;
void *memmove(void *, const void *, size_t) AJIT_CPU_NOEXCEPT;
void *memset(void *, int, size_t) AJIT_CPU_NOEXCEPT;
}

#define AJIT_CPU_TEXT2(x) #x
#define AJIT_CPU_TEXT(x) AJIT_CPU_TEXT2(x)

#define AJIT_CPU_ASSERT(...)                                    \
    ((__VA_ARGS__)                                              \
         ? (void)0                                              \
         : ::ajit_cpu::fault(::ajit_cpu::error_assert, __FILE__ \
                             ":" AJIT_CPU_TEXT(__LINE__) ": assertion `" #__VA_ARGS__ "` failed"))
#include "include/assert.h"

#endif
