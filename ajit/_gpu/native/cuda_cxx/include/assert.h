// Shim for the CPU driver: assert is a device error instead of the end of the process. No include
// guard, as in C.
#undef assert
#ifndef NDEBUG
#define assert(...) AJIT_CPU_ASSERT(__VA_ARGS__)
#else
#define assert(...) ((void)0)
#endif
