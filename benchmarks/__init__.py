"""Benchmarks: the budgets, each measured beside a peer in the same run."""
