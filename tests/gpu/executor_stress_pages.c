/* Pages copied by tables from several threads, with steps and events, left in flight and given back
 * meanwhile, also into memory that is registered in pieces or in part; and tables that are good and
 * bad: for the sanitizers. */
#include "executor_stress.h"

enum { PAGES = 24, ROWS = 3, CHUNK_IDS = 8, CHUNKS = 3, BYTES = 64, REQUESTS = 6 };
enum { ROW_BYTES = PAGES * BYTES, CHUNK_BYTES = ROWS * CHUNK_IDS * BYTES };

/* Host memory that is registered: chunks reach from its first page into its second. */
struct shared {
    struct shared *next; /* it is kept until the end: nothing tells when all copies are over */
    _Atomic uint64_t ended[2];
    void *pages;
};

static struct shared *_Atomic shared_memory;

enum { PAGE = 4096 };

struct request {
    struct ajit_pages header;
    uint64_t rows[3 * ROWS], chunks[CHUNKS], events[ROWS];
    int32_t ids[PAGES];
};

static struct ajit_resource *make(struct ajit_port *port, uint32_t opcode, uint64_t size) {
    int open = 1;
    return finish(port, &open, submit_simple(port, opcode, size));
}

static struct ajit_resource *register_page(struct ajit_port *port, struct shared *shared,
                                           int page) {
    int open = 1;
    struct ajit_region region = {.header = {AJIT_REGISTER, sizeof region},
                                 .address = (uintptr_t)shared->pages + (uint64_t)page * PAGE,
                                 .size = PAGE,
                                 .ended = (uintptr_t)&shared->ended[page],
                                 .shared = 1};
    struct ajit_resource *piece = finish(port, &open, submit(port, &region, sizeof region));
    if (!piece) failures++;
    return piece;
}

static struct shared *share(void) {
    struct shared *shared = calloc(1, sizeof *shared);
    shared->pages = aligned_alloc(PAGE, 2 * PAGE);
    memset(shared->pages, 0, 2 * PAGE);
    shared->next = atomic_load(&shared_memory);
    while (!atomic_compare_exchange_weak(&shared_memory, &shared->next, shared)) continue;
    return shared;
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
    struct shared *shared = round % 4 ? share() : NULL; /* in one piece, in two, or in part */
    struct ajit_resource *pieces[2] = {NULL, NULL};
    if (shared) pieces[0] = register_page(port, shared, 0);
    if (shared && round % 2) pieces[1] = register_page(port, shared, 1);
    /* A piece of a copy lies across the end of the first page. */
    uint64_t host = shared ? (uintptr_t)shared->pages + BYTES / 8 : pinned->pointer;
    describe(&request, memory->pointer, host);
    for (int row = 0; row < ROWS; row++) {
        events[row] = make(port, AJIT_MAKE_EVENT, 0);
        request.events[row] = events[row]->pointer;
    }
    check_tables(&request, round);
    int open = 0;
    for (int i = 0; i < REQUESTS; i++, open += 2) {
        request.header.to_host = (uint64_t)(i % 2);
        /* Given back in the middle of the copies: later ones are cut in another way, or not. */
        if (i % 2 && pieces[i / 2 % 2]) {
            ajit_post(executor, pieces[i / 2 % 2], ~(uint64_t)0);
            pieces[i / 2 % 2] = NULL;
        }
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
