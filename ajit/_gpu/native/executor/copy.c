/* Copies, one by one and many at once; of pages see pages.c. */
#include "executor.h"

#define POINTER(type, address) ((type)(uintptr_t)(address))

static int copy_part(struct ajit_executor *executor, struct ajit_ticket *ticket, uint32_t opcode,
                     uint64_t target, uint64_t source, uint64_t size) {
    struct ajit_driver *driver = &executor->driver;
    switch (opcode) {
    case AJIT_COPY_TO_DEVICE:
        return driver->copy_to_device(target, POINTER(const void *, source), size, ticket->stream);
    case AJIT_COPY_TO_HOST:
        return driver->copy_to_host(POINTER(void *, target), source, size, ticket->stream);
    default: return driver->copy_on_device(target, source, size, ticket->stream);
    }
}

/* In parts where the driver knows the host memory in pieces, see known.c. */
static int copy_one(struct ajit_executor *executor, struct ajit_ticket *ticket,
                    const struct ajit_copy *op, bool *enqueued) {
    uint64_t target = op->target ? op->target : ticket->made ? ticket->made->pointer : 0;
    uint64_t host = op->header.opcode == AJIT_COPY_TO_HOST ? target : op->source;
    int code = CUDA_SUCCESS;
    for (uint64_t done = 0; !code && done < op->size;) {
        uint64_t size = ajit_known_span(&executor->known, host + done, op->size - done);
        atomic_fetch_add_explicit(&executor->counters.copies, 1, memory_order_relaxed);
        code =
            copy_part(executor, ticket, op->header.opcode, target + done, op->source + done, size);
        if (!code) *enqueued = true;
        done += size;
    }
    return code;
}

/* In order, which the caller did not ask for. Sets `enqueued` with the first that is accepted. */
static int copy_each(struct ajit_driver *driver, CUstream stream, uint64_t count,
                     const CUdeviceptr *targets, const CUdeviceptr *sources, const size_t *sizes,
                     bool *enqueued) {
    int code = CUDA_SUCCESS;
    for (uint64_t i = 0; !code && i < count; i++) {
        code = driver->copy_anywhere(targets[i], sources[i], sizes[i], stream);
        if (!code) *enqueued = true;
    }
    return code;
}

/* Many copies at once. A refusal may come after the driver has begun with some: so whatever it
 * says, the ticket is followed to its end, and keeps its memory until then. */
int ajit_copy_pieces(struct ajit_executor *executor, CUstream stream, uint64_t count,
                     CUdeviceptr *targets, CUdeviceptr *sources, size_t *sizes, bool *enqueued) {
    struct ajit_driver *driver = &executor->driver;
    size_t of_all = 0;
    struct ajit_copy_attributes attributes = {.source_order = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM};
    atomic_fetch_add_explicit(&executor->counters.copies, count, memory_order_relaxed);
    int code = CUDA_ERROR_NOT_SUPPORTED;
    /* The driver takes no batch in the legacy stream. */
    if (driver->copy_batch && stream != CU_STREAM_LEGACY)
        code = driver->copy_batch(targets, sources, sizes, count, &attributes, &of_all, 1, stream);
    if (code == CUDA_ERROR_NOT_SUPPORTED)
        return copy_each(driver, stream, count, targets, sources, sizes, enqueued);
    *enqueued = true;
    return code;
}

/* Whether the driver takes a range at once. */
static bool is_whole(struct ajit_executor *executor, uint64_t address, uint64_t bytes) {
    return ajit_known_span(&executor->known, address, bytes) == bytes;
}

/* Which side is the host's is not said; ends of pieces lie in that only. */
static int copy_in_parts(struct ajit_gathering *of, uint64_t count, const CUdeviceptr *targets,
                         const CUdeviceptr *sources, const size_t *sizes) {
    int code = ajit_pieces_begin(of);
    for (uint64_t i = 0; !code && i < count; i++) {
        of->to_host = !is_whole(of->executor, targets[i], sizes[i]);
        of->apart = true;
        code = ajit_pieces_add(of, targets[i], sources[i], sizes[i]);
    }
    return code ? code : ajit_pieces_flush(of);
}

static int copy_many(struct ajit_executor *executor, struct ajit_ticket *ticket,
                     const struct ajit_copies *op, bool *enqueued) {
    /* The driver's types are not const, but it only reads. */
    CUdeviceptr *targets = (CUdeviceptr *)(op + 1), *sources = targets + op->count;
    size_t *sizes = (size_t *)(sources + op->count);
    struct ajit_gathering of = {executor, ticket->stream, enqueued, false, true};
    for (uint64_t i = 0; executor->known.count && i < op->count; i++)
        if (!is_whole(executor, targets[i], sizes[i]) || !is_whole(executor, sources[i], sizes[i]))
            return copy_in_parts(&of, op->count, targets, sources, sizes);
    return ajit_copy_pieces(executor, ticket->stream, op->count, targets, sources, sizes, enqueued);
}

int ajit_copy(struct ajit_executor *executor, struct ajit_ticket *ticket,
              const struct ajit_operation *op, bool *enqueued) {
    if (op->opcode == AJIT_COPIES)
        return copy_many(executor, ticket, (const struct ajit_copies *)op, enqueued);
    if (op->opcode == AJIT_PAGES)
        return ajit_copy_pages(executor, ticket, (const struct ajit_pages *)op, enqueued);
    return copy_one(executor, ticket, (const struct ajit_copy *)op, enqueued);
}
