"""One open runtime: opening, kernels, warm-up, log, statistics."""
