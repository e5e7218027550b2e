"""Programs, as a worker process runs them: nvcc, host C++ compilers, and builds.

Each job has a private folder, made and removed by the pool, in which the source, virtual headers,
every intermediate file and the result lie. Nothing is ever written to a place that another job or
process knows, so no two compiles can meet. Compilers run inside the folder and see the source under
the spec's label, so messages and debug records name the label and no path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ajit._compile.worker.build import run_build
from ajit._compile.worker.host import compile_host
from ajit._compile.worker.nvcc import compile_nvcc

if TYPE_CHECKING:
    from ajit._compile.worker.messages import WorkerAnswer, WorkerRequest
    from ajit._compile.worker.recording import Recorder

__all__ = ["compile_job"]


def compile_job(request: WorkerRequest, recorder: Recorder) -> WorkerAnswer:
    """Compile one job with the program of its toolchain, or run a build."""
    if request.job.compiler == "build":
        return run_build(request, recorder)
    return compile_nvcc(request) if request.job.compiler == "nvcc" else compile_host(request)
