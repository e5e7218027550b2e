#error "the CPU driver does not have device-side cuRAND (curand_kernel.h)"
