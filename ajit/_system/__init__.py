"""The parts that deal with the event loop and the operating system, and not with kernels."""
