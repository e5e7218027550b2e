/* Copies that are collected and handed to the driver a bounded number at a time.
 *
 * Neighbours on both sides become one, unless they are told apart. What the driver would not take
 * at once, for it knows the host memory in pieces (known.c), becomes several.
 */
#include "executor.h"

#include <stdlib.h>

int ajit_pieces_begin(struct ajit_gathering *of) {
    struct ajit_executor *executor = of->executor;
    if (!executor->pieces) executor->pieces = calloc(1, sizeof *executor->pieces);
    if (!executor->pieces) return CUDA_ERROR_OUT_OF_MEMORY;
    executor->pieces->count = 0;
    of->apart = true;
    return CUDA_SUCCESS;
}

int ajit_pieces_flush(struct ajit_gathering *of) {
    struct ajit_pieces *pieces = of->executor->pieces;
    uint64_t count = pieces->count;
    pieces->count = 0;
    if (!count) return CUDA_SUCCESS;
    return ajit_copy_pieces(of->executor, of->stream, count, pieces->targets, pieces->sources,
                            pieces->sizes, of->enqueued);
}

static bool join(struct ajit_gathering *of, uint64_t target, uint64_t source, uint64_t bytes) {
    struct ajit_pieces *pieces = of->executor->pieces;
    if (!pieces->count || of->apart) return false;
    uint64_t last = pieces->count - 1, size = pieces->sizes[last];
    if (pieces->targets[last] + size != target || pieces->sources[last] + size != source)
        return false;
    pieces->sizes[last] = size + bytes;
    return true;
}

static int append(struct ajit_gathering *of, uint64_t target, uint64_t source, uint64_t bytes) {
    struct ajit_pieces *pieces = of->executor->pieces;
    int code = pieces->count == AJIT_PIECES ? ajit_pieces_flush(of) : CUDA_SUCCESS;
    if (code) return code;
    uint64_t at = pieces->count++;
    pieces->targets[at] = target;
    pieces->sources[at] = source;
    pieces->sizes[at] = bytes;
    of->apart = false;
    return CUDA_SUCCESS;
}

static int add(struct ajit_gathering *of, uint64_t target, uint64_t source, uint64_t bytes) {
    return join(of, target, source, bytes) ? CUDA_SUCCESS : append(of, target, source, bytes);
}

/* Adds a copy between a device and the host; `apart` says that it joins none before it. */
int ajit_pieces_add(struct ajit_gathering *of, uint64_t target, uint64_t source, uint64_t bytes) {
    struct ajit_known *known = &of->executor->known;
    uint64_t *host = of->to_host ? &target : &source;
    int code = CUDA_SUCCESS;
    if (ajit_known_within(known, *host, bytes)) return add(of, target, source, bytes);
    while (!code && bytes) {
        uint64_t part = ajit_known_span(known, *host, bytes);
        if (ajit_known_parts(known, *host)) of->apart = true;
        code = add(of, target, source, part);
        target += part;
        source += part;
        bytes -= part;
    }
    return code;
}
