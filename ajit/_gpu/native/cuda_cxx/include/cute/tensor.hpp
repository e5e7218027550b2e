#error "the CPU driver does not have CuTe (cute/tensor.hpp)"
