/* The life of a ticket after it was performed: finished by the host function, or, where none came,
 * by the CUDA thread.
 *
 * Exactly one of them settles it: both try to move `state` on, and the loser does nothing. The
 * references are: one of whoever works on the ticket (submitter, then CUDA thread, then the list of
 * tickets in flight), one of the host function, one of each note on its way to the loop.
 */
#include "executor.h"

#include <stdlib.h>

void ajit_ticket_drop(struct ajit_ticket *ticket)
{
    if (atomic_fetch_sub(&ticket->references, 1) == 1) {
        ajit_port_drop(ticket->port);
        free(ticket);
    }
}

static void note(struct ajit_ticket *ticket, struct ajit_note *which, uint32_t flags)
{
    which->ticket = ticket;
    atomic_fetch_add(&ticket->references, 1);
    ajit_port_push(ticket->port, which, flags);
}

static bool move(struct ajit_ticket *ticket, int from, int to)
{
    return atomic_compare_exchange_strong(&ticket->state, &from, to);
}

static void count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* The host function, on a thread of the driver (R2). A failing device never calls it. */
void ajit_ticket_on_done(void *argument)
{
    struct ajit_ticket *ticket = argument;
    struct ajit_counters *counters = &ticket->port->executor->counters;
    /* Before the state moves, for the note is read at once. */
    if (atomic_load(&ticket->state) == AJIT_IN_FLIGHT) {
        atomic_store(&ticket->finished_ns, ajit_now_ns());
        if (move(ticket, AJIT_IN_FLIGHT, AJIT_FINISHED)) {
            count(&counters->settled);
            if (ticket->code)
                count(&counters->failed);
            note(ticket, &ticket->settled, AJIT_SETTLED | AJIT_RETIRED);
        }
    }
    if (move(ticket, AJIT_OVERDUE, AJIT_OVERDUE_ENDED))
        note(ticket, &ticket->retired, AJIT_RETIRED);
    ajit_ticket_drop(ticket);
}

/* The CUDA thread settles a ticket itself: one that needs no device, that failed before it reached
 * it, or whose host function will not come. */
void ajit_ticket_settle(struct ajit_executor *executor, struct ajit_ticket *ticket, int code)
{
    uint32_t lost = code && code == atomic_load(&executor->lost) ? AJIT_IS_LOST : 0;
    if (move(ticket, AJIT_IN_FLIGHT, AJIT_FINISHED)) {
        ticket->code = code;
        atomic_store(&ticket->finished_ns, ajit_now_ns());
        count(&executor->counters.settled);
        if (code)
            count(&executor->counters.failed);
        note(ticket, &ticket->settled, AJIT_SETTLED | AJIT_RETIRED | lost);
    } else if (move(ticket, AJIT_OVERDUE, AJIT_OVERDUE_ENDED)) {
        note(ticket, &ticket->retired, AJIT_RETIRED | lost);
    }
}

static void expire(struct ajit_executor *executor, struct ajit_ticket *ticket, uint64_t now)
{
    atomic_store(&ticket->finished_ns, now);
    if (move(ticket, AJIT_IN_FLIGHT, AJIT_OVERDUE)) {
        count(&executor->counters.expired);
        note(ticket, &ticket->settled, AJIT_SETTLED | AJIT_EXPIRED);
    }
}

static bool retired(struct ajit_ticket *ticket)
{
    int state = atomic_load(&ticket->state);
    return state == AJIT_FINISHED || state == AJIT_OVERDUE_ENDED;
}

/* The list of tickets in flight takes over the caller's reference. Called before the host function
 * is launched. */
void ajit_flight_add(struct ajit_executor *executor, struct ajit_ticket *ticket)
{
    ajit_queue_push(&executor->flight, ticket);
    count(&executor->counters.in_flight);
}

/* Forgets finished tickets at the head. Streams may finish out of order; then an old ticket holds
 * back the bookkeeping of newer ones, which costs memory and delays frees, and nothing else. */
void ajit_flight_retire(struct ajit_executor *executor)
{
    struct ajit_ticket *ticket;
    while ((ticket = executor->flight.first) && retired(ticket)) {
        executor->retired_sequence = ticket->sequence;
        atomic_fetch_sub_explicit(&executor->counters.in_flight, 1, memory_order_relaxed);
        ajit_ticket_drop(ajit_queue_pop(&executor->flight));
    }
    if (!executor->flight.first)
        executor->retired_sequence = executor->next_sequence;
}

/* The context is unusable: nothing runs on the device any more and no host function will come. */
void ajit_flight_lose(struct ajit_executor *executor, int code)
{
    int none = 0;
    atomic_compare_exchange_strong(&executor->lost, &none, code);
    code = atomic_load(&executor->lost);
    for (struct ajit_ticket *ticket = executor->flight.first; ticket; ticket = ticket->next)
        ajit_ticket_settle(executor, ticket, code);
    ajit_flight_retire(executor);
}

/* A stream that says it is done has run its host functions, so a ticket on it that is still in
 * flight has lost its callback. */
static void check(struct ajit_executor *executor, struct ajit_ticket *ticket, CUresult stream_says,
                  uint64_t now)
{
    if (retired(ticket))
        return;
    if (stream_says == CUDA_SUCCESS) {
        if (ticket->has_callback)
            count(&executor->counters.lost_callbacks);
        ajit_ticket_settle(executor, ticket, ticket->code);
    } else if (now - ticket->dispatched_ns > executor->options.deadline_ns) {
        expire(executor, ticket, now);
    }
}

/* Looks after tickets whose host function does not come. Asks the driver once per run of tickets of
 * one stream, not once per ticket. */
void ajit_flight_sweep(struct ajit_executor *executor)
{
    CUstream asked = NULL;
    CUresult says = CUDA_ERROR_NOT_READY;
    uint64_t now = ajit_now_ns();
    executor->swept_ns = now;
    for (struct ajit_ticket *ticket = executor->flight.first; ticket; ticket = ticket->next) {
        if (retired(ticket))
            continue;
        if (ticket->stream != asked) {
            asked = ticket->stream;
            says = executor->driver.stream_query(asked);
            if (ajit_driver_is_sticky(says)) {
                ajit_flight_lose(executor, says);
                return;
            }
        }
        check(executor, ticket, says, now);
    }
    ajit_flight_retire(executor);
}
