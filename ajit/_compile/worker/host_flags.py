"""The flags with which a host C++ compiler builds kernels for the CPU driver.

The one list: `ajit._compile.worker.host` compiles users' kernels with it, ajit's own tests theirs,
and a toolchain's fingerprint covers it, so that an object built with other flags is never taken for
one of these.

No flag depends on the machine (no ``-march=native``): the object is shared through the cache with
others of the same architecture.
"""

from __future__ import annotations

__all__ = ["COMPILE_FLAGS", "FAMILY_FLAGS", "LINK_FLAGS", "family_of"]

COMPILE_FLAGS = (
    "-O2",
    "-fPIC",
    # Nothing unwinds: smaller images.
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-asynchronous-unwind-tables",
    # Kernels read memory as float4, half2, ...; nvcc lets them.
    "-fno-strict-aliasing",
    # Exported functions can be inlined all the same.
    "-fno-semantic-interposition",
    "-fno-threadsafe-statics",
    # The same result on every CPU.
    "-ffp-contract=off",
    "-w",
)

LINK_FLAGS = (
    "-shared",
    "-Wl,-Bsymbolic",  # globals are this image's own
    "-Wl,--as-needed",  # nothing is loaded that is not needed
    "-Wl,-z,undefs",  # dynamic shared memory is undefined; the driver's ELF loader defines it
    "-s",
    "-lm",
)

FAMILY_FLAGS = {
    "gcc": (
        # Unique symbols would outlive, and be shared by, two modules.
        "-fno-gnu-unique",
        # In a template, g++ asks a function of another translation unit to initialise
        # `extern __shared__` memory. There is no such unit: the call would go to address 0. clang
        # never does it.
        "-fno-extern-tls-init",
    ),
    "clang": (),
    "zig": (
        "-mcpu=baseline",  # zig builds for the CPU it runs on unless told otherwise
        "-fno-sanitize=undefined",  # and with a sanitizer
    ),
}


def family_of(version: str) -> str:
    """Return the family of a host compiler from its version, such as ``gcc 12.2.0``."""
    return version.partition(" ")[0]
