"""A server that compiles nothing while it serves: recorded, replayed, carried, frozen.

    python -m examples.zero_jit

starts it twice. The first start is cold: each first request waits for a compile, and what was used
is recorded. Its kernels are exported, and imported into an empty home, where the second start
replays the record, is ready before its first request, and is frozen. A shape that nobody has asked
for before is then served by a fallback, and reported.
"""
