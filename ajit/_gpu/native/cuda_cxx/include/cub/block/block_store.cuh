#error "the CPU driver does not have CUB (cub/block/block_store.cuh)"
