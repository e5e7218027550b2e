"""Compilers: what is installed, what a source includes, and the processes that compile.

``toolchains`` finds compilers and fingerprints them; ``headers`` finds the header closure of a
spec; ``pool`` runs jobs in processes whose program is ``worker``. The server process itself never
loads a compiler library and never waits for one on its event loop.
"""
