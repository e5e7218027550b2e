/* Timers: how long the device itself worked on a ticket, by two events around its operations.
 *
 * Only the driver can say what lies between two events, and a host function must not ask it. So the
 * host function of a ticket that is timed hands it to the CUDA thread, which asks, and then
 * finishes it: one thread more on the way, paid by those who ask for the time. A ticket keeps its
 * timer until it has retired; then another one uses it.
 */
#include "executor.h"

#include <stdlib.h>

struct ajit_timer {
    CUevent begin, end;
    struct ajit_timer *next;
    bool ended; /* both events are in the stream */
};

static void destroy(struct ajit_executor *executor, struct ajit_timer *timer) {
    if (timer->begin) executor->driver.event_destroy(timer->begin);
    if (timer->end) executor->driver.event_destroy(timer->end);
    free(timer);
}

static int make(struct ajit_executor *executor, struct ajit_timer **made) {
    struct ajit_timer *timer = calloc(1, sizeof *timer);
    if (!timer) return CUDA_ERROR_OUT_OF_MEMORY;
    int code = executor->driver.event_create(&timer->begin, 0);
    if (!code) code = executor->driver.event_create(&timer->end, 0);
    if (code) {
        destroy(executor, timer);
        return code;
    }
    *made = timer;
    return CUDA_SUCCESS;
}

/* Before the first operation of a ticket. When it fails, nothing may be performed. */
int ajit_timer_begin(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    struct ajit_timer *timer = executor->timers;
    int code = CUDA_SUCCESS;
    if (timer) executor->timers = timer->next;
    else code = make(executor, &timer);
    if (code) return code;
    timer->ended = false;
    ticket->timer = timer;
    return executor->driver.event_record(timer->begin, ticket->stream);
}

/* Behind the last one. When it fails the work is on its way, and goes without a time. */
void ajit_timer_end(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    ticket->timer->ended =
        executor->driver.event_record(ticket->timer->end, ticket->stream) == CUDA_SUCCESS;
    ticket->timed = true;
}

/* The host function, on a thread of the driver; its reference goes along. */
void ajit_timer_hand_over(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    ticket->done_ns = ajit_now_ns();
    /* The ticket holds the executor until it is on the list; from then on this does. */
    atomic_fetch_add(&executor->submitting, 1);
    struct ajit_ticket *head = atomic_load(&executor->timed);
    do ticket->next_timed = head;
    while (!atomic_compare_exchange_weak(&executor->timed, &head, ticket));
    ajit_ring_wake(executor);
    atomic_fetch_sub(&executor->submitting, 1);
}

static uint32_t ask(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    struct ajit_timer *timer = ticket->timer;
    float milliseconds = 0;
    /* One that lost its callback, was settled by the sweep and is done now has no timer any
     * more. */
    if (!timer || !timer->ended || ticket->code || atomic_load(&executor->lost)) return 0;
    ajit_heartbeat_enter(executor, AJIT_ELAPSED, ticket->number);
    int code = executor->driver.event_elapsed(&milliseconds, timer->begin, timer->end);
    ajit_heartbeat_leave(executor);
    if (code || milliseconds < 0) return 0;
    ticket->detail = (uint64_t)((double)milliseconds * 1e6);
    return AJIT_TIMED;
}

/* All that was handed over, oldest first: in the order in which the device was done. */
static struct ajit_ticket *take_all(struct ajit_executor *executor) {
    struct ajit_ticket *newest = atomic_exchange(&executor->timed, NULL), *oldest = NULL;
    while (newest) {
        struct ajit_ticket *next = newest->next_timed;
        newest->next_timed = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

/* Finishes what was handed over. */
void ajit_timer_collect(struct ajit_executor *executor) {
    if (!atomic_load_explicit(&executor->timed, memory_order_relaxed)) return;
    struct ajit_ticket *ticket = take_all(executor);
    while (ticket) {
        struct ajit_ticket *next = ticket->next_timed;
        uint32_t flags = ask(executor, ticket);
        ajit_ticket_finish(ticket, ticket->done_ns, flags);
        ticket = next;
    }
}

/* The ticket has retired, or never reached the device. */
void ajit_timer_leave(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    struct ajit_timer *timer = ticket->timer;
    if (!timer) return;
    ticket->timer = NULL;
    timer->next = executor->timers;
    executor->timers = timer;
}

void ajit_timer_close(struct ajit_executor *executor, bool driver_usable) {
    while (executor->timers) {
        struct ajit_timer *timer = executor->timers;
        executor->timers = timer->next;
        if (driver_usable) destroy(executor, timer);
        else free(timer); /* in a lost context the events went with it */
    }
}
