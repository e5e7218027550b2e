/* The serve loop: what the CUDA thread does all its life.
 *
 * It takes everything from one ring, so there is one order. Work goes to the driver at once. Loads
 * and allocations go to the second lane (second_lane.c). Frees come by the post box and wait
 * for an idle moment. A Python callable is a barrier: all that was submitted before it, second lane
 * included, is performed first.
 */
#include "executor.h"

#include <sched.h>

/* How often the thread looks after tickets in flight whose host function does not come: bounds the
 * time from a failing kernel to its DeviceLost. A look costs about a microsecond. */
enum { SWEEP_NS = 50 * 1000 * 1000 };
/* The same while memory is used up and only a finishing ticket can make room. */
enum { STARVED_NS = 1000 * 1000 };
/* Under unbroken load, how many submissions pass between two looks at frees and overdue tickets. A
 * look frees as many as there were submissions: each had to be made by one, so they cannot pile
 * up. */
enum { BUSY_LOOKS = 256 };
static void look_after(struct ajit_executor *executor) {
    executor->unlooked = 0;
    executor->starved = false;
    /* What is done and timed holds memory that a barrier may wait for. */
    ajit_timer_collect(executor);
    ajit_flight_retire(executor);
    if (executor->busy_lanes && ajit_now_ns() - executor->swept_ns > SWEEP_NS)
        ajit_flight_sweep(executor);
}

static void finish(struct ajit_executor *executor, struct ajit_ticket *ticket, int code) {
    ajit_ticket_settle(executor, ticket, code);
    ajit_ticket_drop(ticket);
}

static void close_port(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    ajit_timer_collect(executor);
    ajit_flight_retire(executor);
    ajit_second_lane_leave(executor, ticket->port);
    ajit_resource_close_port(executor, ticket->port);
    finish(executor, ticket, 0);
}

/* Performs what is in the second lane, before a barrier. Allocations that wait for memory do not
 * hold it up: they wait for work that is in flight, of any loop, and everything behind the barrier
 * would stand still. Only at the end nothing waits any more, and they fail. */
static void clear_second_lane(struct ajit_executor *executor) {
    while (executor->service.first || (executor->stopping && ajit_second_lane_starves(executor))) {
        ajit_second_lane_serve(executor);
        look_after(executor);
    }
}

/* Takes one submission. Returns its opcode if Python has to act on it, else 0. */
static int take(struct ajit_executor *executor, struct ajit_ticket *ticket, uint64_t *number) {
    uint32_t opcode = ((const struct ajit_operation *)ticket->operations)->opcode;
    if (opcode < AJIT_ALLOC) {
        ajit_perform(executor, ticket);
        return 0;
    }
    if (opcode < AJIT_CLOSE_PORT) {
        ajit_second_lane_push(executor, ticket);
        return 0;
    }
    executor->stopping = opcode == AJIT_STOP;
    clear_second_lane(executor);
    if (opcode == AJIT_CLOSE_PORT) {
        close_port(executor, ticket);
        return 0;
    }
    *number = ticket->number;
    if (opcode == AJIT_CALL) {
        executor->call = ticket;
        ajit_heartbeat_enter(executor, opcode, ticket->number);
    } else {
        finish(executor, ticket, 0);
    }
    return (int)opcode;
}

/* Nothing is submitted: tidy up, then wait. */
static void rest(struct ajit_executor *executor) {
    ajit_flight_retire(executor);
    if (ajit_resource_tidy(executor, AJIT_WHEN_IDLE)) return;
    bool busy = executor->busy_lanes || ajit_resource_waits(executor) || executor->held;
    uint64_t limit_ns = ajit_second_lane_starves(executor) ? STARVED_NS
                        : busy                             ? SWEEP_NS
                                                           : ajit_pool_idle_ns(executor);
    bool woken = ajit_ring_wait(executor, limit_ns);
    if (!woken) look_after(executor);
    if (woken || busy) return;
    ajit_heartbeat_enter(executor, AJIT_FREEING, 0);
    ajit_pool_give_back(executor);
    ajit_heartbeat_leave(executor);
}

/* Serves until Python has to act. Returns AJIT_CALL (the callable of ticket `number` is next) or
 * AJIT_STOP. */
int ajit_serve(struct ajit_executor *executor, uint64_t *number) {
    for (;;) {
        ajit_timer_collect(executor);
        struct ajit_ticket *ticket =
            ajit_second_lane_has_turn(executor) ? NULL : ajit_ring_pop(executor);
        if (ticket) {
            int opcode = take(executor, ticket, number);
            if (opcode) return opcode;
        } else if (ajit_second_lane_is_ready(executor)) {
            ajit_second_lane_serve(executor);
        } else {
            rest(executor);
        }
        if (++executor->unlooked > BUSY_LOOKS) {
            look_after(executor);
            for (int i = 0; i < BUSY_LOOKS && ajit_resource_tidy(executor, AJIT_WHEN_IDLE); i++)
                continue;
        }
    }
}

/* The callable that ajit_serve came up for has returned. */
void ajit_serve_called(struct ajit_executor *executor, int code) {
    struct ajit_ticket *ticket = executor->call;
    executor->call = NULL;
    ajit_heartbeat_leave(executor);
    if (ticket) finish(executor, ticket, code);
}

/* Threads that are inside of the executor: submitting, or handing over what is done.
 * Microseconds. */
static void wait_for_others(struct ajit_executor *executor) {
    while (atomic_load(&executor->submitting)) sched_yield();
}

static void refuse_the_rest(struct ajit_executor *executor) {
    struct ajit_ticket *ticket;
    atomic_store(&executor->stopped, 1);
    wait_for_others(executor);
    while ((ticket = ajit_ring_pop(executor))) finish(executor, ticket, CUDA_ERROR_DEINITIALIZED);
}

/* Ends: what is still in the ring fails, resources are freed, the context is released. Returns how
 * many tickets the device is still at; if any, nothing is freed, since that could wait for ever. */
int ajit_serve_end(struct ajit_executor *executor) {
    refuse_the_rest(executor);
    ajit_timer_collect(executor);
    ajit_flight_retire(executor);
    if (executor->busy_lanes) ajit_flight_sweep(executor);
    int left = ajit_flight_count(executor);
    bool usable = !left && !atomic_load(&executor->lost);
    ajit_resource_end(executor, usable);
    ajit_timer_close(executor, usable);
    if (usable) ajit_device_close(executor);
    else if (!left) ajit_pool_abandon(executor);
    if (!left) executor->driver.context_release(executor->device);
    ajit_watchdog_end(executor);
    wait_for_others(executor);
    /* The host function of a ticket that is left may still come: its memory stays. */
    return left;
}
