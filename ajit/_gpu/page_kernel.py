"""The kernel that copies pages which fall into small pieces: its source, and its launches.

A copy engine takes about half a microsecond for a piece however small it is (LMCache's notes: it
and a kernel break even at 34 KB on an H200; vLLM's: 28 KiB). The kernel reads the same tables from
device memory and the chunks in place, in pinned memory. It is specialised by all that a layout
fixes, so that divisions by it are compiled away; addresses, strides of pages and numbers of rows
are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ajit._core.spec import Spec
from ajit._gpu.inner import inner

if TYPE_CHECKING:
    from ajit._gpu.kernel import Kernel
    from ajit._gpu.page_format import PageIds

__all__ = ["PageKernel", "kernel_spec", "launch_shape"]

MULTIPROCESSORS: Final = 12
"""Blocks at most, so that the engine keeps the rest of the device: what vLLM's kernel takes."""
CPU_BLOCKS: Final = 16
"""On the CPU driver: some for each core. Arbitrary."""
MAX_THREADS: Final = 1024
WARP: Final = 32

SOURCE: Final = """
#if WORD_BYTES == 16
typedef uint4 word;
#elif WORD_BYTES == 8
typedef unsigned long long word;
#elif WORD_BYTES == 4
typedef unsigned int word;
#elif WORD_BYTES == 2
typedef unsigned short word;
#else
typedef unsigned char word;
#endif
typedef unsigned long long u64;

__device__ void copy_word(u64 device, u64 host) {
#if TO_HOST
    *(word*)host = *(const word*)device;
#else
    *(word*)device = *(const word*)host;
#endif
}

/* What one id stands for: by all threads of a row of the block. */
__device__ void copy_page(u64 device, u64 host) {
    const unsigned piece_words = PIECE_BYTES / WORD_BYTES;
    for (unsigned i = threadIdx.x; i < OUTER * INNER * piece_words; i += blockDim.x) {
        unsigned piece = i / piece_words, at = i % piece_words * WORD_BYTES;
        unsigned outer = piece / INNER, inner = piece % INNER;
        copy_word(device + outer * (u64)OUTER_DEVICE + inner * (u64)INNER_DEVICE + at,
                  host + outer * (u64)OUTER_HOST + inner * (u64)INNER_HOST + at);
    }
}

/* The tables: addresses, strides and offsets of all rows, addresses of chunks, all of 8 bytes, and
 * the ids of 4. Of the rows, `row_count` from `first_row` on are copied. */
extern "C" __global__ void copy_pages(const void* tables, int rows, int chunks, int ids,
                                      int first_row, int row_count) {
    const u64 *bases = (const u64*)tables, *strides = bases + rows, *offsets = strides + rows;
    const u64 *where = offsets + rows;
    const int* numbers = (const int*)(where + chunks);
    u64 all = (u64)row_count * ids, step = (u64)gridDim.x * blockDim.y;
    for (u64 i = (u64)blockIdx.x * blockDim.y + threadIdx.y; i < all; i += step) {
        unsigned row = first_row + (unsigned)(i / ids), place = (unsigned)(i % ids);
        int id = numbers[place];
        if (id < 0) continue;
        unsigned page = (unsigned)id / SPLIT, part = (unsigned)id % SPLIT;
        copy_page(bases[row] + page * strides[row] + part * (u64)SPLIT_BYTES,
                  where[place / CHUNK_IDS] + offsets[row] + place % CHUNK_IDS * (u64)ID_BYTES);
    }
}
"""


@dataclass(frozen=True)
class PageKernel:
    """A kernel that is ready, and how it is launched.

    Attributes:
        kernel: For one direction, and numbers of one kind.
        word_bytes: Of a step of a thread; all addresses have to be multiples.
        block: Threads along the bytes of an id, and ids at a time.
        most_blocks: Of a launch.
    """

    kernel: Kernel
    word_bytes: int
    block: tuple[int, int]
    most_blocks: int

    def operation(self, table: object, rows: int, chunks: int, ids: int, part: range) -> bytes:
        """Return the launch for some rows, as an operation."""
        blocks = -(-len(part) * ids // self.block[1])
        grid = max(1, min(blocks, self.most_blocks))
        args = (table, rows, chunks, ids, part.start, len(part))
        return inner(self.kernel).operation(grid, self.block, args, 0)


def kernel_spec(form: PageIds, word_bytes: int, *, to_host: bool) -> Spec:
    """Return what has to be compiled for numbers of one kind, and one direction."""
    outer, inside = form.axes
    defines = {
        "WORD_BYTES": word_bytes, "TO_HOST": int(to_host), "PIECE_BYTES": form.piece_bytes,
        "OUTER": outer[0], "OUTER_DEVICE": outer[1], "OUTER_HOST": outer[2],
        "INNER": inside[0], "INNER_DEVICE": inside[1], "INNER_HOST": inside[2],
        "SPLIT": form.split, "SPLIT_BYTES": form.split_bytes,
        "CHUNK_IDS": form.chunk_ids, "ID_BYTES": form.id_bytes,
    }  # fmt: skip
    return Spec(SOURCE, "copy_pages", name="copy_pages", defines=defines)


def launch_shape(form: PageIds, word_bytes: int, kind: str) -> tuple[tuple[int, int], int]:
    """Return the block, and how many of them at most.

    On the CPU driver a thread copies all of an id: threads that take turns would only cost.
    """
    if kind == "cpu":
        return (1, 1), CPU_BLOCKS
    words = form.nbytes // word_bytes
    threads = min(MAX_THREADS, -(-words // WARP) * WARP)
    return (threads, MAX_THREADS // threads), MULTIPROCESSORS
