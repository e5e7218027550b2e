/* Pages copied by tables from several threads, with steps and events, left in flight and given back
 * meanwhile; and tables that are good and bad: for the sanitizers. */
#include "executor_stress.h"

enum { PAGES = 24, ROWS = 3, CHUNK_IDS = 8, CHUNKS = 3, BYTES = 64, REQUESTS = 6 };
enum { ROW_BYTES = PAGES * BYTES, CHUNK_BYTES = ROWS * CHUNK_IDS * BYTES };

struct request {
    struct ajit_pages header;
    uint64_t rows[3 * ROWS], chunks[CHUNKS], events[ROWS];
    int32_t ids[PAGES];
};

static struct ajit_resource *make(struct ajit_port *port, uint32_t opcode, uint64_t size) {
    int open = 1;
    return finish(port, &open, submit_simple(port, opcode, size));
}

/* The numbers in some order, and one gap. */
static void check_tables(struct request *request, int round) {
    int32_t ids[PAGES];
    uint64_t at, offsets[PAGES], out[3 * PAGES];
    for (int i = 0; i < PAGES; i++) {
        ids[i] = (i * 7 + round) % PAGES;
        offsets[i] = (uint64_t)ids[i] * BYTES;
    }
    ids[round % PAGES] = -1;
    struct ajit_column column = {(uintptr_t)ids, sizeof *ids, 1};
    if (ajit_table_ids(request->ids, &column, PAGES, PAGES, 1, &at) || at != PAGES - 1) failures++;
    ids[3] = ids[4] = 2;
    if (ajit_table_ids(request->ids, &column, PAGES, PAGES, 1, &at) != AJIT_TWICE) failures++;
    if (ajit_table_ids(request->ids, &column, PAGES, 1, 0, &at) != AJIT_OUTSIDE) failures++;
    if (ajit_table_ids(request->ids, &column, PAGES, PAGES, 0, &at)) failures++;
    struct ajit_column places = {(uintptr_t)offsets, sizeof *offsets, 0}, size = {BYTES, 0, 0};
    struct ajit_ranges ranges = {PAGES, 1, ROW_BYTES, 1, ROW_BYTES, places, places, size};
    if (ajit_table_copies(out, &ranges, &at) || at > PAGES) failures++;
    ranges.sizes.start = BYTES + 1;
    if (!ajit_table_copies(out, &ranges, &at)) failures++;
}

static void describe(struct request *request, uint64_t device, uint64_t host) {
    request->header = (struct ajit_pages){
        .header = {AJIT_PAGES, sizeof *request},
        .rows = ROWS,
        .ids = PAGES,
        .chunks = CHUNKS,
        .events = ROWS,
        .chunk_ids = CHUNK_IDS,
        .id_bytes = BYTES,
        .split = 1,
        .count = {2, 2},
        .device_bytes = {BYTES / 2, BYTES / 4},
        .host_bytes = {BYTES / 2, BYTES / 4},
        .piece_bytes = BYTES / 4,
        .step_rows = 1,
    };
    for (int row = 0; row < ROWS; row++) {
        request->rows[row] = device + (uint64_t)row * ROW_BYTES;
        request->rows[ROWS + row] = BYTES;
        request->rows[2 * ROWS + row] = (uint64_t)row * CHUNK_IDS * BYTES;
    }
    for (int chunk = 0; chunk < CHUNKS; chunk++)
        request->chunks[chunk] = host + (uint64_t)chunk * CHUNK_BYTES;
}

static void one_round(struct ajit_port *port, int round) {
    static _Thread_local struct request request;
    struct ajit_resource *memory = make(port, AJIT_ALLOC, ROWS * ROW_BYTES);
    struct ajit_resource *pinned = make(port, AJIT_ALLOC_HOST, CHUNKS * CHUNK_BYTES);
    struct ajit_resource *stream = make(port, AJIT_MAKE_STREAM, 0), *events[ROWS];
    if (!memory || !pinned || !stream) {
        failures++;
        return;
    }
    describe(&request, memory->pointer, pinned->pointer);
    for (int row = 0; row < ROWS; row++) {
        events[row] = make(port, AJIT_MAKE_EVENT, 0);
        request.events[row] = events[row]->pointer;
    }
    check_tables(&request, round);
    int open = 0;
    for (int i = 0; i < REQUESTS; i++, open += 2) {
        request.header.to_host = (uint64_t)(i % 2);
        submit_all(port, stream, &request, 1, sizeof request);
        submit_simple(port, AJIT_WAIT, events[i % ROWS]->pointer);
    }
    memset(&request, 0xff, sizeof request); /* the ticket has its own */
    if (round % 2) finish(port, &open, 0);
    for (int row = 0; row < ROWS; row++) ajit_post(executor, events[row], ~(uint64_t)0);
    ajit_post(executor, stream, ~(uint64_t)0);
    ajit_post(executor, pinned, ~(uint64_t)0);
    ajit_post(executor, memory, ~(uint64_t)0);
    submit_simple(port, AJIT_CLOSE_PORT, 0);
    open++;
    if (round % 3) finish(port, &open, 0);
}

static void *work(void *argument) {
    (void)argument;
    for (int round = 0; round < rounds; round++) {
        struct ajit_port *port = ajit_port_create(executor, 50000, 1000000);
        one_round(port, round);
        ajit_port_release(port);
    }
    return NULL;
}

int main(int count, char **arguments) {
    int failed = stress(count, arguments, work);
    return failed || !steps;
}
