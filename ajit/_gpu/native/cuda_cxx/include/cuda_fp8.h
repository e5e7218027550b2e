#error "the CPU driver does not have 8-bit floating point (cuda_fp8.h)"
