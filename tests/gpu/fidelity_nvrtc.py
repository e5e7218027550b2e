"""A program that compiles with NVRTC, without ajit, where the CPU driver is found as the driver."""

from __future__ import annotations

import ctypes

from cuda.bindings import driver, nvrtc

SOURCE = b"template <class T> __global__ void scale(T *x, T by) { x[threadIdx.x] *= by; }"
NOT_FOUND = 500


def ok(answer: tuple) -> object:
    """The result of a call that has to succeed."""
    error, *result = answer
    assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS, error
    return result[0] if result else None


def tables() -> None:
    """A table that has no public description is not there, and none is handed out."""
    table, name = ctypes.c_void_p(1), (ctypes.c_char * 16)()
    library = ctypes.CDLL("libcuda.so.1")
    assert library.cuGetExportTable(ctypes.byref(table), name) == NOT_FOUND
    assert not table.value
    assert driver.cuGetExportTable(driver.CUuuid())[0] == NOT_FOUND


def kernels() -> None:
    """An instance of a template, to a cubin."""
    program = ok(nvrtc.nvrtcCreateProgram(SOURCE, b"scale.cu", 0, [], []))
    ok(nvrtc.nvrtcAddNameExpression(program, b"scale<float>"))
    ok(nvrtc.nvrtcCompileProgram(program, 1, [b"--gpu-architecture=sm_90"]))
    assert ok(nvrtc.nvrtcGetCUBINSize(program)) > 0
    assert b"scale" in ok(nvrtc.nvrtcGetLoweredName(program, b"scale<float>"))
    ok(nvrtc.nvrtcDestroyProgram(program))


if __name__ == "__main__":
    tables()
    print("table")  # noqa: T201  # the test reads it
    kernels()
    print("kernel")  # noqa: T201  # the test reads it
