/* Streams, events, batches with steps and graphs from several threads, released and left while
 * the device works on them: for the sanitizers. */
#include "executor_stress.h"

enum { BYTES = 4096, LAUNCHES = 5, BATCHES = 10 };

struct things { struct ajit_resource *memory, *pinned, *stream, *start, *end, *graph; };

static struct ajit_resource *make(struct ajit_port *port, uint32_t opcode, uint64_t size) {
    int open = 1;
    return finish(port, &open, submit_simple(port, opcode, size));
}

static struct ajit_fill fill_of(const struct ajit_resource *memory, uint64_t value) {
    return (struct ajit_fill){{AJIT_FILL, sizeof(struct ajit_fill)}, memory->pointer, BYTES, value};
}

static struct ajit_alloc simple(uint32_t opcode, uint64_t number) {
    return (struct ajit_alloc){{opcode, sizeof(struct ajit_alloc)}, number};
}

static struct ajit_resource *capture(struct ajit_port *port, const struct things *things) {
    struct {
        struct ajit_alloc capture;
        alignas(16) struct ajit_fill first;
        alignas(16) struct ajit_fill second;
    } operations = {simple(AJIT_CAPTURE, 0), fill_of(things->memory, 1),
                    fill_of(things->memory, 2)};
    int open = 1;
    return finish(port, &open, submit_all(port, NULL, &operations, 3, sizeof operations));
}

/* Two fills, each a step, between two events. */
static void submit_batch(struct ajit_port *port, const struct things *things) {
    struct {
        struct ajit_alloc start;
        alignas(16) struct ajit_fill first;
        alignas(16) struct ajit_alloc first_done;
        alignas(16) struct ajit_fill second;
        alignas(16) struct ajit_alloc second_done, end;
    } operations = {
        simple(AJIT_RECORD_EVENT, things->start->pointer),
        fill_of(things->memory, 3),
        simple(AJIT_STEP, 0),
        fill_of(things->memory, 4),
        simple(AJIT_STEP, 1),
        simple(AJIT_RECORD_EVENT, things->end->pointer),
    };
    submit_all(port, things->stream, &operations, 6, sizeof operations);
}

static struct things make_all(struct ajit_port *port) {
    struct things things = {
        .memory = make(port, AJIT_ALLOC, BYTES),
        .pinned = make(port, AJIT_ALLOC_HOST, BYTES),
        .stream = make(port, AJIT_MAKE_STREAM, 0),
        .start = make(port, AJIT_MAKE_EVENT, 0),
        .end = make(port, AJIT_MAKE_EVENT, 0),
    };
    things.graph = capture(port, &things);
    return things;
}

static void use_all(struct ajit_port *port, const struct things *things) {
    struct ajit_alloc launch = simple(AJIT_LAUNCH_GRAPH, things->graph->pointer);
    struct ajit_copy copy = {
        {AJIT_COPY_TO_HOST, sizeof copy}, things->pinned->pointer, things->memory->pointer, BYTES};
    for (int i = 0; i < BATCHES; i++) submit_batch(port, things);
    for (int i = 0; i < LAUNCHES; i++) submit_all(port, things->stream, &launch, 1, sizeof launch);
    submit_all(port, things->stream, &copy, 1, sizeof copy);
    submit_simple(port, AJIT_WAIT, things->end->pointer);
    submit_simple(port, AJIT_JOIN, things->stream->pointer);
    submit_simple(port, AJIT_MARK, 0);
}

static void give_back(const struct things *things) {
    struct ajit_resource *all[] = {things->graph,  things->end,    things->start,
                                   things->stream, things->pinned, things->memory};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ajit_post(executor, all[i], ~(uint64_t)0);
}

/* In turn: waits for all, then leaves; releases and leaves with everything in flight; leaves
 * first. */
static void one_round(struct ajit_port *port, int round) {
    struct things things = make_all(port);
    struct ajit_elapsed elapsed = {
        {AJIT_ELAPSED, sizeof elapsed}, things.start->pointer, things.end->pointer, 0};
    int open = BATCHES + LAUNCHES + 4;
    use_all(port, &things);
    if (round % 3 == 0) {
        finish(port, &open, 0);
        open = 2;
        submit(port, &elapsed, sizeof elapsed);
        submit_simple(port, AJIT_CLOSE_PORT, 0);
        finish(port, &open, 0);
    }
    if (round % 3 == 1) give_back(&things);
    if (round % 3 != 0) submit_simple(port, AJIT_CLOSE_PORT, 0);
    ajit_port_release(port);
    if (round % 3 != 1) give_back(&things);
}

static void *work(void *argument) {
    (void)argument;
    for (int round = 0; round < rounds; round++)
        one_round(ajit_port_create(executor, 50000, 1000000), round);
    return NULL;
}

int main(int count, char **arguments) {
    int failed = stress(count, arguments, work);
    return failed || !steps;
}
