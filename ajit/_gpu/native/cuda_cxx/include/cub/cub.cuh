#error "the CPU driver does not have CUB (cub/cub.cuh)"
