/* Pages: copies between pages on the device and chunks on the host, expanded from tables.
 *
 * A request names pages by their numbers; a table says once where the rows of a layer begin, how
 * far apart their pages lie, and where they stand in a chunk. So what crosses the ring is a few
 * numbers for each page, and not three for each copy; the copies are made here, on the CUDA thread.
 * Copies that are neighbours on both sides become one, see pieces.c.
 *
 * A negative number is a gap: nothing is copied, and its place in the chunk is left as it is.
 * Numbers are checked before they get here (tables.c).
 */
#include "executor.h"

struct expansion {
    struct ajit_gathering pieces;
    struct ajit_ticket *ticket;
    const struct ajit_pages *op;
    const uint64_t *bases, *strides, *offsets; /* of the rows */
    const uint64_t *chunks, *events;
    const int32_t *ids;
};

static struct expansion read_tables(struct ajit_executor *executor, struct ajit_ticket *ticket,
                                    const struct ajit_pages *op, bool *enqueued) {
    const uint64_t *bases = (const uint64_t *)(op + 1);
    const uint64_t *chunks = bases + 3 * op->rows, *events = chunks + op->chunks;
    return (struct expansion){
        .pieces = {executor, ticket->stream, enqueued, op->to_host, true},
        .ticket = ticket,
        .op = op,
        .bases = bases,
        .strides = bases + op->rows,
        .offsets = bases + 2 * op->rows,
        .chunks = chunks,
        .events = events,
        .ids = (const int32_t *)(events + op->events),
    };
}

static int add(struct expansion *of, uint64_t device, uint64_t host, uint64_t bytes) {
    bool to_host = of->op->to_host;
    return ajit_pieces_add(&of->pieces, to_host ? host : device, to_host ? device : host, bytes);
}

/* What one id stands for in one row. */
static int add_page(struct expansion *of, uint64_t device, uint64_t host) {
    const struct ajit_pages *op = of->op;
    int code = CUDA_SUCCESS;
    for (uint64_t i = 0; !code && i < op->count[0]; i++) {
        uint64_t from = device + i * op->device_bytes[0], to = host + i * op->host_bytes[0];
        for (uint64_t j = 0; !code && j < op->count[1]; j++)
            code = add(of, from + j * op->device_bytes[1], to + j * op->host_bytes[1],
                       op->piece_bytes);
    }
    return code;
}

static int add_row(struct expansion *of, uint64_t row) {
    const struct ajit_pages *op = of->op;
    uint64_t next = 0;
    int code = CUDA_SUCCESS;
    for (uint64_t chunk = 0; chunk < op->chunks; chunk++) {
        uint64_t host = of->chunks[chunk] + of->offsets[row];
        of->pieces.apart = true; /* neighbours may be of different allocations */
        for (uint64_t i = 0; i < op->chunk_ids && next < op->ids; i++, host += op->id_bytes) {
            int32_t id = of->ids[next++];
            if (id < 0) continue;
            uint64_t page = (uint64_t)id / op->split, place = (uint64_t)id % op->split;
            uint64_t device = of->bases[row] + page * of->strides[row] + place * op->split_bytes;
            code = add_page(of, device, host);
            if (code) return code;
        }
    }
    return code;
}

/* The rows up to here are enqueued: a task may wait for that, and another stream. */
static int end_step(struct expansion *of, uint64_t step) {
    struct ajit_executor *executor = of->pieces.executor;
    int code = ajit_pieces_flush(&of->pieces);
    if (!code && of->op->events) {
        CUevent event = (CUevent)(uintptr_t)of->events[step];
        code = executor->driver.event_record(event, of->ticket->stream);
    }
    return code ? code : ajit_ticket_step(executor, of->ticket, step);
}

static int add_rows(struct expansion *of) {
    const struct ajit_pages *op = of->op;
    int code = CUDA_SUCCESS;
    for (uint64_t row = 0, done = 0, step = 0; !code && row < op->rows; row++) {
        code = add_row(of, row);
        if (code || !op->step_rows) continue;
        done++;
        if (done % op->step_rows && done != op->rows) continue;
        code = end_step(of, step++);
    }
    return code ? code : ajit_pieces_flush(&of->pieces);
}

/* On an error what was enqueued before still runs. */
int ajit_copy_pages(struct ajit_executor *executor, struct ajit_ticket *ticket,
                    const struct ajit_pages *op, bool *enqueued) {
    struct expansion of = read_tables(executor, ticket, op, enqueued);
    int code = ajit_pieces_begin(&of.pieces);
    return code ? code : add_rows(&of);
}
