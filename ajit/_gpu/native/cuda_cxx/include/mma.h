#error "the CPU driver does not have tensor cores (mma.h)"
