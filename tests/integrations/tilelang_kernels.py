"""A kernel of TileLang."""

# ruff: noqa: I002  # TileLang reads annotations as they are
import tilelang.language as T  # noqa: N812  # as its users call it

THREADS = 128


def scaled(factor: float):
    @T.prim_func
    def scale(A: T.Tensor((1024,), "float32"), B: T.Tensor((1024,), "float32")):
        with T.Kernel(8, threads=THREADS) as block:
            for i in T.Parallel(THREADS):
                B[block * THREADS + i] = A[block * THREADS + i] * T.float32(factor)

    return scale
