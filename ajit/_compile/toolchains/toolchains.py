"""Compilers that are installed: found, versioned and fingerprinted, without loading any of them.

A toolchain's fingerprint goes into every key, so it covers what decides a result beside the spec:
the compiler itself (its digest, or the digests that its wheel recorded), its full version text, the
release of the CUDA headers that it will use, and for the host compiler the headers of the CPU
driver, the C library and the machine. NVRTC's library is looked at as a file only: this process
never maps it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ajit._compile.recorder.digests import digests
from ajit._compile.toolchains import discovery
from ajit._compile.toolchains.asking import Questions
from ajit._compile.toolchains.identity import Toolchain

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._core.job import CompilerName
    from ajit.settings import Settings

__all__ = ["Toolchain", "Toolchains"]


class Toolchains:
    """The toolchains of this process. Thread-safe; looking for one blocks (files, child processes).

    A toolchain that was found is kept until its file changes: a compiler upgraded under a running
    server gets a new fingerprint, so its results get new keys.
    """

    def __init__(self, settings: Settings) -> None:
        self._questions = Questions()
        self._finders: dict[CompilerName, Callable[[], Toolchain]] = {
            "nvrtc": lambda: discovery.find_nvrtc(digests),
            "nvcc": lambda: discovery.find_nvcc(digests, settings.nvcc, self._questions.ask),
            "host": lambda: discovery.find_host(
                digests, settings.host_compiler, self._questions.ask
            ),
        }
        # A compiler may take a minute to say its version; a look for another one need not wait.
        self._looking = {kind: threading.Lock() for kind in self._finders}
        self._lock = threading.Lock()  # guards _found, and is never held while one looks
        self._found: dict[CompilerName, Toolchain] = {}

    def find(self, kind: CompilerName) -> Toolchain:
        """Return the toolchain of a kind. Blocks: up to a second the first time, then microseconds.

        Raises:
            CompilerNotFound: There is none; it names every place that was searched. Nothing is
                remembered, so that a compiler installed meanwhile is found by the next call.
        """
        with self._looking[kind]:
            with self._lock:
                toolchain = self._found.get(kind)
            if toolchain is not None and toolchain.is_current():
                return toolchain
            toolchain = self._finders[kind]()
            with self._lock:
                self._found[kind] = toolchain
            return toolchain

    def close(self) -> None:
        """End compilers that are being asked, and look for no more. Does not wait."""
        self._questions.close()

    def found(self) -> tuple[Toolchain, ...]:
        """Return what has been found so far. Does not block."""
        with self._lock:
            return tuple(self._found.values())
