"""Compilers: what is installed, what a source includes, and the processes that compile.

`toolchain` finds compilers and fingerprints them; `includes` finds the header closure of a spec;
`pool` runs jobs in worker processes (`worker`, and under it `nvrtc`, `nvcc` and `host`). The server
process itself never loads a compiler library and never waits for one on its event loop.
"""

from __future__ import annotations
