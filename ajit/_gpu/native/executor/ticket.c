/* The life of a ticket after it was performed: finished by the host function, or, where none came,
 * by the CUDA thread.
 *
 * Exactly one of them settles it: both try to move `state` on, and the loser does nothing. The
 * references are: one of the ticket's current worker (submitter, then CUDA thread, then the list of
 * tickets in flight), one of the host function, one of each note on its way to the loop.
 */
#include "executor.h"

#include <stdlib.h>

void ajit_ticket_drop(struct ajit_ticket *ticket) {
    if (atomic_fetch_sub(&ticket->references, 1) == 1) {
        ajit_port_drop(ticket->port);
        free(ticket);
    }
}

static void note(struct ajit_ticket *ticket, struct ajit_note *which, uint32_t flags) {
    which->ticket = ticket;
    atomic_fetch_add(&ticket->references, 1);
    ajit_port_push(ticket->port, which, flags);
}

static bool move(struct ajit_ticket *ticket, int from, int to) {
    return atomic_compare_exchange_strong(&ticket->state, &from, to);
}

static void count(_Atomic uint64_t *counter) {
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* The device is done with it. Takes over a reference: the host function's. */
void ajit_ticket_finish(struct ajit_ticket *ticket, uint64_t now, uint32_t flags) {
    struct ajit_counters *counters = &ticket->port->executor->counters;
    /* Before the state moves, for the note is read at once. */
    if (atomic_load(&ticket->state) == AJIT_IN_FLIGHT) {
        atomic_store(&ticket->finished_ns, now);
        if (move(ticket, AJIT_IN_FLIGHT, AJIT_FINISHED)) {
            count(&counters->settled);
            if (ticket->code) count(&counters->failed);
            note(ticket, &ticket->settled, AJIT_SETTLED | AJIT_RETIRED | flags);
        }
    }
    if (move(ticket, AJIT_OVERDUE, AJIT_OVERDUE_ENDED))
        note(ticket, &ticket->retired, AJIT_RETIRED);
    ajit_ticket_drop(ticket);
}

/* The host function, on a thread of the driver (R2). A failing device never calls it. */
void ajit_ticket_on_done(void *argument) {
    struct ajit_ticket *ticket = argument;
    if (ticket->timed) ajit_timer_hand_over(ticket->port->executor, ticket);
    else ajit_ticket_finish(ticket, ajit_now_ns(), 0);
}

/* The CUDA thread settles a ticket itself: one that needs no device, that failed before it reached
 * it, or whose host function will not come. */
void ajit_ticket_settle(struct ajit_executor *executor, struct ajit_ticket *ticket, int code) {
    uint32_t lost = code && code == atomic_load(&executor->lost) ? AJIT_IS_LOST : 0;
    if (move(ticket, AJIT_IN_FLIGHT, AJIT_FINISHED)) {
        ticket->code = code;
        atomic_store(&ticket->finished_ns, ajit_now_ns());
        count(&executor->counters.settled);
        if (code) count(&executor->counters.failed);
        note(ticket, &ticket->settled, AJIT_SETTLED | AJIT_RETIRED | lost);
    } else if (move(ticket, AJIT_OVERDUE, AJIT_OVERDUE_ENDED)) {
        note(ticket, &ticket->retired, AJIT_RETIRED | lost);
    }
}

/* Its deadline has passed, and the device is still at it. */
void ajit_ticket_expire(struct ajit_executor *executor, struct ajit_ticket *ticket, uint64_t now) {
    atomic_store(&ticket->finished_ns, now);
    if (move(ticket, AJIT_IN_FLIGHT, AJIT_OVERDUE)) {
        count(&executor->counters.expired);
        note(ticket, &ticket->settled, AJIT_SETTLED | AJIT_EXPIRED);
    }
}

/* Whether the device is done with it, so that its memory may go. */
bool ajit_ticket_retired(struct ajit_ticket *ticket) {
    int state = atomic_load(&ticket->state);
    return state == AJIT_FINISHED || state == AJIT_OVERDUE_ENDED;
}

static void on_step(void *argument) {
    struct ajit_step *step = argument;
    struct ajit_ticket *ticket = step->note.ticket;
    step->finished_ns = ajit_now_ns();
    /* The reference that came with the step goes on with its note; this one keeps the port. */
    atomic_fetch_add(&ticket->references, 1);
    ajit_port_push(ticket->port, &step->note, AJIT_STEPPED);
    ajit_ticket_drop(ticket);
}

/* Tells the loop when the device is done with what the submission has enqueued so far. A device
 * that is lost runs no host function: then the step stays, a few bytes for each, and the ticket
 * itself says what happened. */
int ajit_ticket_step(struct ajit_executor *executor, struct ajit_ticket *ticket, uint64_t index) {
    struct ajit_step *step = calloc(1, sizeof *step);
    if (!step) return CUDA_ERROR_OUT_OF_MEMORY;
    step->note.ticket = ticket;
    step->index = index;
    atomic_fetch_add(&ticket->references, 1);
    int code = executor->driver.launch_host_function(ticket->stream, on_step, step);
    if (code) {
        free(step);
        ajit_ticket_drop(ticket);
    }
    return code;
}
