#error "the CPU driver does not have CUB (cub/warp/warp_reduce.cuh)"
