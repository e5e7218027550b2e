#error "the CPU driver does not have 4-bit floating point (cuda_fp4.h)"
