"""What ajit needs of the event loop and the operating system, and knows nothing of kernels."""
