"""What only a GPU can tell: `make gpu`, which writes one report. See `benchmarks.gpu.__main__`."""
