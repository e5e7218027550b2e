/* Performs submissions: turns operations into driver calls, on the CUDA thread.
 *
 * Operations of one submission go to the driver in order. The first that fails ends it: what was
 * enqueued before it still runs, and the ticket fails, with the driver's code, when that is over.
 */
#include "executor.h"

#define POINTER(type, address) ((type)(uintptr_t)(address))

static int fill(struct ajit_executor *executor, struct ajit_ticket *ticket,
                const struct ajit_fill *op) {
    return executor->driver.fill(op->target, (unsigned char)op->value, op->size, ticket->stream);
}

/* Makes something for Python, or answers it, on the second lane. */
static int make(struct ajit_executor *executor, struct ajit_ticket *ticket,
                const struct ajit_operation *op, bool *enqueued) {
    const struct ajit_alloc *simple = (const struct ajit_alloc *)op;
    switch (op->opcode) {
    case AJIT_ALLOC:
        return ajit_resource_alloc(executor, ticket, AJIT_MEMORY, simple->size, enqueued);
    case AJIT_ALLOC_HOST:
        return ajit_resource_alloc(executor, ticket, AJIT_HOST_MEMORY, simple->size, enqueued);
    case AJIT_LOAD: return ajit_resource_load(executor, ticket, (const struct ajit_load *)op);
    case AJIT_REGISTER:
        return ajit_resource_register(executor, ticket, (const struct ajit_region *)op);
    case AJIT_MAKE_STREAM: return ajit_stream_make(executor, ticket, (int64_t)simple->size);
    case AJIT_MAKE_EVENT: return ajit_event_make(executor, ticket, simple->size);
    default: return ajit_event_elapsed(executor, ticket, (const struct ajit_elapsed *)op);
    }
}

/* Hands something to the device. Sets `enqueued` where part of it may be, though it fails. */
static int enqueue(struct ajit_executor *executor, struct ajit_ticket *ticket,
                   const struct ajit_operation *op, bool *enqueued) {
    struct ajit_driver *driver = &executor->driver;
    uint64_t number = ((const struct ajit_alloc *)op)->size;
    switch (op->opcode) {
    case AJIT_LAUNCH: return ajit_launch_kernel(executor, ticket, (const struct ajit_launch *)op);
    case AJIT_FILL: return fill(executor, ticket, (const struct ajit_fill *)op);
    case AJIT_MARK: return CUDA_SUCCESS;
    case AJIT_RECORD_EVENT: return driver->event_record(POINTER(CUevent, number), ticket->stream);
    case AJIT_WAIT: return driver->stream_wait_event(ticket->stream, POINTER(CUevent, number), 0);
    case AJIT_STEP: return ajit_ticket_step(executor, ticket, number);
    case AJIT_JOIN: return ajit_stream_join(executor, ticket, number);
    case AJIT_LAUNCH_GRAPH:
        atomic_fetch_add_explicit(&executor->counters.launches, 1, memory_order_relaxed);
        return driver->graph_launch(POINTER(CUgraphExec, number), ticket->stream);
    default: return ajit_copy(executor, ticket, op, enqueued);
    }
}

/* Performs one operation. Sets `enqueued` if the device has something to do for it. */
static int operate(struct ajit_executor *executor, struct ajit_ticket *ticket,
                   const struct ajit_operation *op, bool *enqueued) {
    if (op->opcode >= AJIT_ALLOC) return make(executor, ticket, op, enqueued);
    int code = enqueue(executor, ticket, op, enqueued);
    if (!code) *enqueued = true;
    return code;
}

/* Performs the operations from number `first` on, until one fails. */
int ajit_operate_all(struct ajit_executor *executor, struct ajit_ticket *ticket, uint32_t first,
                     bool *enqueued) {
    unsigned char *at = ticket->operations;
    for (uint32_t i = 0; i < ticket->count; i++) {
        const struct ajit_operation *op = (const struct ajit_operation *)at;
        at += op->bytes;
        if (i < first) continue;
        ajit_heartbeat_enter(executor, op->opcode, ticket->number);
        int code = operate(executor, ticket, op, enqueued);
        if (code) {
            if (op->opcode != AJIT_LOAD) ticket->detail = i;
            return code;
        }
    }
    return CUDA_SUCCESS;
}

/* Releases memory that was allocated for a submission which then failed. */
static void unmake(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    if (!ticket->made) return;
    ajit_resource_keep_back(executor, ticket->made);
    atomic_store(&ticket->made->lanes, (uint64_t)1 << ticket->lane);
    ajit_resource_defer(executor, ticket->made);
    ticket->made = NULL;
}

/* The ticket is in flight from here on: the host function, or the sweep, settles it. */
static void follow(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    ajit_flight_add(executor, ticket);
    ticket->has_callback = true;
    atomic_fetch_add(&ticket->references, 1); /* the host function's */
    int code = executor->driver.launch_host_function(ticket->stream, ajit_ticket_on_done, ticket);
    if (!code) return;
    /* The work is on its way and will not say when it is done: the sweep asks the stream. */
    ticket->has_callback = false;
    ajit_ticket_drop(ticket);
    code = ajit_flight_judge(executor, code);
    if (ajit_driver_is_sticky(code)) ajit_flight_lose(executor, code);
}

/* A load cannot be broken off: what is submitted meanwhile stands behind it, and it is told how
 * long. */
static void count_behind_load(struct ajit_executor *executor, const struct ajit_ticket *ticket) {
    struct ajit_counters *counters = &executor->counters;
    uint64_t from = ticket->submitted_ns, until = executor->load_ended_ns;
    if (until <= from) return;
    if (from < executor->load_began_ns) from = executor->load_began_ns;
    uint64_t stood_ns = until - from;
    atomic_fetch_add_explicit(&counters->behind_loads, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&counters->behind_loads_ns, stood_ns, memory_order_relaxed);
    if (stood_ns > atomic_load_explicit(&counters->longest_behind_load_ns, memory_order_relaxed))
        atomic_store_explicit(&counters->longest_behind_load_ns, stood_ns, memory_order_relaxed);
}

static void perform(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    uint32_t opcode = ((const struct ajit_operation *)ticket->operations)->opcode;
    bool enqueued = false;
    int code = atomic_load(&executor->lost);
    if (!ticket->stream) ticket->stream = executor->stream;
    bool timed = opcode < AJIT_ALLOC && (ticket->timed || executor->options.time_tickets);
    ticket->timed = false; /* until there is something to tell */
    if (!code && ticket->lane == AJIT_SHARED_LANE)
        code = ajit_flight_refuses(executor, ticket->stream);
    if (!code && timed) code = ajit_timer_begin(executor, ticket);
    if (!code)
        code = opcode == AJIT_CAPTURE ? ajit_graph_make(executor, ticket)
                                      : ajit_operate_all(executor, ticket, 0, &enqueued);
    code = ajit_flight_judge(executor, code);
    if (code == AJIT_LATER) {
        ajit_second_lane_starve(executor, ticket);
        return;
    }
    if (opcode < AJIT_ALLOC) count_behind_load(executor, ticket);
    ticket->sequence = ++executor->next_sequence;
    atomic_fetch_add_explicit(&executor->counters.dispatched, 1, memory_order_relaxed);
    if (ajit_driver_is_sticky(code)) ajit_flight_lose(executor, code);
    if (code) unmake(executor, ticket);
    if (enqueued && !atomic_load(&executor->lost)) {
        ticket->code = code;
        if (timed) ajit_timer_end(executor, ticket);
        follow(executor, ticket);
        return;
    }
    ajit_timer_leave(executor, ticket);
    ajit_ticket_settle(executor, ticket, code);
    ajit_ticket_drop(ticket);
}

/* Takes over the caller's reference of the ticket. */
void ajit_perform(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    perform(executor, ticket); /* each operation enters, the host function counts to the last one */
    ajit_heartbeat_leave(executor);
}
