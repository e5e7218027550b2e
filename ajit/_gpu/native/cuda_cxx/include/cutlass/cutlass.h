#error "the CPU driver does not have CUTLASS (cutlass/cutlass.h)"
