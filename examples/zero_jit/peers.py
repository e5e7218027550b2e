"""Kernels of others that the server uses where they are installed: Triton's and FlashInfer's.

Both compile for an H100 that need not be there, and nothing of theirs is launched.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import ajit

__all__ = ["PEERS", "Peer", "missing"]


class Peer(Protocol):
    """One peer.

    Attributes:
        needs: What has to be installed.
        cases: Names of what the server uses of it.
    """

    needs: Sequence[str]
    cases: Sequence[str]

    def environment(self, folder: Path) -> Mapping[str, str]:
        """Return variables that a process needs which uses it; files may be put into a folder."""

    def install(self, runtime: ajit.Runtime) -> None:
        """Let it compile through a runtime. In a thread."""

    async def warm_up(self) -> None:
        """Make its cases ready, off the loop."""

    def use(self, case: str) -> int:
        """Use one; return how many bytes it has, or 0. In a thread."""


def missing(peer: Peer) -> list[str]:
    """Return what is not installed of what a peer needs."""
    return [name for name in peer.needs if importlib.util.find_spec(name) is None]


class Triton:
    """A kernel by three block sizes."""

    needs = ("triton",)
    cases = ("64", "128", "256")

    def environment(self, folder: Path) -> Mapping[str, str]:  # noqa: ARG002  # nothing is needed
        """Nothing: it brings its compiler, and its cache is in the home."""
        return {}

    def install(self, runtime: ajit.Runtime) -> None:
        """Install ajit's adapter."""
        import ajit.integrations  # noqa: PLC0415  # with the peer

        ajit.integrations.install("triton", runtime=runtime)

    async def warm_up(self) -> None:
        """Compile all block sizes, several at once."""
        import ajit.integrations.triton as adapter  # noqa: PLC0415  # with the peer
        from examples.zero_jit import triton_kernels  # noqa: PLC0415  # the same

        wanted = [
            adapter.Specialization(triton_kernels.SIGNATURE, {"BLOCK": int(case)})
            for case in self.cases
        ]
        for result in await adapter.warmup(triton_kernels.rms_norm, wanted, target=self._target()):
            if isinstance(result, Exception):
                raise result

    def use(self, case: str) -> int:
        """Compile one, or find it."""
        import triton  # noqa: PLC0415  # a peer

        from examples.zero_jit import triton_kernels  # noqa: PLC0415  # with it

        source = triton.compiler.ASTSource(
            triton_kernels.rms_norm, triton_kernels.SIGNATURE, {"BLOCK": int(case)}
        )
        return len(triton.compile(source, target=self._target()).asm["cubin"])

    @staticmethod
    def _target() -> Any:
        from triton.backends.compiler import GPUTarget  # noqa: PLC0415  # a peer

        return GPUTarget("cuda", 90, 32)


class FlashInfer:
    """The activation module of SiLU: one ninja build with nvcc."""

    needs = ("flashinfer", "torch", "tvm_ffi")
    cases = ("silu",)

    def environment(self, folder: Path) -> Mapping[str, str]:
        """For which GPU, and with which compiler: CUDA_HOME's, or that of the wheels."""
        told = {"FLASHINFER_CUDA_ARCH_LIST": "9.0a", "FLASHINFER_LOGGING_LEVEL": "error"}
        if "CUDA_HOME" in os.environ:
            return told
        return told | _toolkit_of_wheels(folder / "toolkit")

    def install(self, runtime: ajit.Runtime) -> None:
        """Install ajit's adapter."""
        import ajit.integrations  # noqa: PLC0415  # with the peer

        ajit.integrations.install("flashinfer", runtime=runtime)

    async def warm_up(self) -> None:
        """Build the modules, without loading them."""
        import anyio.to_thread  # noqa: PLC0415  # of this peer alone

        import ajit.integrations.flashinfer as adapter  # noqa: PLC0415  # with the peer

        specs = [await anyio.to_thread.run_sync(self._spec, case) for case in self.cases]
        for result in await adapter.warmup(specs):
            if isinstance(result, Exception):
                raise result

    def use(self, case: str) -> int:
        """Build one, or find it; and load its library."""
        self._spec(case).build_and_load()
        return 0

    @staticmethod
    def _spec(case: str) -> Any:
        from flashinfer.activation import gen_act_and_mul_module  # noqa: PLC0415  # a peer

        return gen_act_and_mul_module(case)


PEERS: dict[str, Peer] = {"triton": Triton(), "flashinfer": FlashInfer()}


def _toolkit_of_wheels(folder: Path) -> dict[str, str]:
    """Complete the compiler of the wheels: the linker wants names of libraries that they lack."""
    import nvidia.cu13  # noqa: PLC0415  # of the wheels

    toolkit = Path(nvidia.cu13.__path__[0]).resolve()
    if not folder.exists():
        folder.mkdir()
        (folder / "libcudart.so").symlink_to(toolkit / "lib" / "libcudart.so.13")
        # A driver with nothing in it: it is linked to, and not called.
        command = ["cc", "-shared", "-x", "c", os.devnull, "-o", str(folder / "libcuda.so")]
        subprocess.run([*command, "-Wl,-soname,libcuda.so.1"], check=True)
    return {
        "CUDA_HOME": str(toolkit),
        "FLASHINFER_EXTRA_LDFLAGS": f"-L{folder}",
        "FLASHINFER_NVCC": str(toolkit / "bin" / "nvcc"),
    }
