/* The second lane: loads, allocations and whatever else makes something for Python.
 *
 * No work can depend on what is in it, since its result is not known yet. It is served while no
 * work waits; if work never pauses, it gets turns, so that a server under full load still gets its
 * next kernel.
 *
 * An allocation that has to wait until memory was freed steps aside, with those of its kind that
 * come after it: everything else in the lane goes ahead. It is tried again whenever the thread has
 * looked after what is in flight. In order, so that small ones do not take for ever what a large
 * one waits for; device and host memory apart, since neither makes room for the other.
 */
#include "executor.h"

/* Under unbroken work, how long the second lane waits for a turn. A turn is one load or allocation,
 * and afterwards work goes first for four times as long as that took: the second lane has a fifth
 * of the thread at most, unless a turn takes very long: the next is never further away than
 * LONGEST_TURN_NS. Arbitrary: a server does not feel the wait, nor do its launches the turns. */
enum { TURN_NS = 1000 * 1000, WORK_SHARE = 4, LONGEST_TURN_NS = 100 * 1000 * 1000 };

static uint64_t later(uint64_t a, uint64_t b) { return a > b ? a : b; }

static uint32_t opcode_of(const struct ajit_ticket *ticket) {
    return ((const struct ajit_operation *)ticket->operations)->opcode;
}

/* The queue of allocations that wait for memory of this kind; NULL if it allocates none. */
static struct ajit_queue *starving_queue(struct ajit_executor *executor, uint32_t opcode) {
    switch (opcode) {
    case AJIT_ALLOC: return &executor->starving[0];
    case AJIT_ALLOC_HOST: return &executor->starving[1];
    default: return NULL;
    }
}

/* Whether allocations wait for memory. */
bool ajit_second_lane_starves(const struct ajit_executor *executor) {
    return executor->starving[0].first || executor->starving[1].first;
}

/* Whether there is something that can be tried now. */
bool ajit_second_lane_is_ready(const struct ajit_executor *executor) {
    return executor->service.first || (!executor->starved && ajit_second_lane_starves(executor));
}

bool ajit_second_lane_has_turn(const struct ajit_executor *executor) {
    return ajit_second_lane_is_ready(executor) && ajit_now_ns() >= executor->turn_ns;
}

void ajit_second_lane_push(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    if (!ajit_second_lane_is_ready(executor))
        executor->turn_ns = later(executor->turn_ns, ajit_now_ns() + TURN_NS);
    ajit_queue_push(&executor->service, ticket);
}

/* There is no memory for an allocation now, and there will be: it stands before those that it came
 * before. */
void ajit_second_lane_starve(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    executor->starved = true;
    ajit_queue_push_front(starving_queue(executor, opcode_of(ticket)), ticket);
}

/* A loop leaves: its allocations that wait for memory fail. */
void ajit_second_lane_leave(struct ajit_executor *executor, struct ajit_port *port) {
    for (int kind = 0; kind < 2; kind++) {
        struct ajit_queue others = {NULL, NULL};
        struct ajit_ticket *ticket;
        while ((ticket = ajit_queue_pop(&executor->starving[kind]))) {
            if (ticket->port != port) {
                ajit_queue_push(&others, ticket);
                continue;
            }
            ajit_ticket_settle(executor, ticket, CUDA_ERROR_OUT_OF_MEMORY);
            ajit_ticket_drop(ticket);
        }
        executor->starving[kind] = others;
    }
}

/* The first allocation that waits for memory, if it may be tried again. */
static struct ajit_ticket *pop_starving(struct ajit_executor *executor) {
    if (executor->starved) return NULL;
    /* One kind at a time: a failure puts off both, and the other is the next one then. */
    struct ajit_queue *one = &executor->starving[executor->starving_turn];
    struct ajit_queue *other = &executor->starving[!executor->starving_turn];
    executor->starving_turn = !executor->starving_turn;
    return ajit_queue_pop(one->first ? one : other);
}

/* The next one, behind no other that waits for the same. */
static struct ajit_ticket *pop(struct ajit_executor *executor) {
    struct ajit_ticket *ticket = pop_starving(executor);
    if (ticket) return ticket;
    while ((ticket = ajit_queue_pop(&executor->service))) {
        struct ajit_queue *starving = starving_queue(executor, opcode_of(ticket));
        if (!starving || !starving->first) return ticket;
        ajit_queue_push(starving, ticket);
    }
    return NULL;
}

/* Performs the next one. */
void ajit_second_lane_serve(struct ajit_executor *executor) {
    struct ajit_ticket *ticket = pop(executor);
    if (!ticket) return;
    uint64_t began = ajit_now_ns();
    ajit_perform(executor, ticket);
    uint64_t ended = ajit_now_ns(), pause = WORK_SHARE * (ended - began);
    executor->turn_ns = ended + later(TURN_NS, pause < LONGEST_TURN_NS ? pause : LONGEST_TURN_NS);
}
