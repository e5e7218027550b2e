#error "the CPU driver does not have asynchronous copies (cuda_pipeline.h)"
