/* Tickets in flight: one lane for each stream, so that a slow stream delays no other.
 *
 * Within a stream tickets finish in order, so the oldest of a lane says how far the lane is.
 * Numbers of dispatch are those of all lanes together. What is given back says which lanes may be
 * using it, and is freed when each of these has passed the number of that moment; what other lanes
 * are at does not matter. Lane 0 is the executor's own stream; the last lane is shared by streams
 * of other libraries, and by ajit's when there are very many: there an old ticket holds back the
 * bookkeeping of newer ones, which delays frees, and nothing else.
 */
#include "executor.h"

static struct ajit_ticket *oldest(const struct ajit_executor *executor, int lane) {
    return executor->lanes[lane].flight.first;
}

/* The lowest busy lane in a set, which loses it; the set is not empty. */
static int next_lane(uint64_t *lanes) {
    int lane = __builtin_ctzll(*lanes);
    *lanes &= *lanes - 1;
    return lane;
}

/* A lane for a new stream. */
uint64_t ajit_lane_take(struct ajit_executor *executor) {
    for (uint64_t lane = 1; lane < AJIT_SHARED_LANE; lane++) {
        if (!executor->lanes[lane].taken) {
            executor->lanes[lane].taken = true;
            return lane;
        }
    }
    return AJIT_SHARED_LANE;
}

void ajit_lane_leave(struct ajit_executor *executor, uint64_t lane) {
    executor->lanes[lane].taken = false;
}

/* Its lane takes over the caller's reference. Called before the host function is launched. */
void ajit_flight_add(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    ajit_queue_push(&executor->lanes[ticket->lane].flight, ticket);
    executor->busy_lanes |= (uint64_t)1 << ticket->lane;
    atomic_fetch_add_explicit(&executor->counters.in_flight, 1, memory_order_relaxed);
}

static void retire_lane(struct ajit_executor *executor, int lane) {
    struct ajit_ticket *ticket;
    while ((ticket = oldest(executor, lane)) && ajit_ticket_retired(ticket)) {
        atomic_fetch_sub_explicit(&executor->counters.in_flight, 1, memory_order_relaxed);
        ajit_timer_leave(executor, ticket);
        ajit_ticket_drop(ajit_queue_pop(&executor->lanes[lane].flight));
    }
    if (!ticket) executor->busy_lanes &= ~((uint64_t)1 << lane);
}

/* Forgets finished tickets, as far as each lane is. */
void ajit_flight_retire(struct ajit_executor *executor) {
    uint64_t first_ns = 0;
    for (uint64_t lanes = executor->busy_lanes; lanes;) {
        int lane = next_lane(&lanes);
        retire_lane(executor, lane);
        struct ajit_ticket *ticket = oldest(executor, lane);
        if (ticket && (!first_ns || ticket->submitted_ns < first_ns))
            first_ns = ticket->submitted_ns;
    }
    atomic_store_explicit(&executor->heartbeat->oldest_ns, first_ns, memory_order_relaxed);
    atomic_store_explicit(&executor->heartbeat->in_flight,
                          atomic_load_explicit(&executor->counters.in_flight, memory_order_relaxed),
                          memory_order_relaxed);
}

/* Whether a ticket that was dispatched before the resource was given back may be using it. */
bool ajit_flight_uses(const struct ajit_executor *executor, const struct ajit_resource *resource) {
    for (uint64_t lanes = executor->busy_lanes & resource->lanes; lanes;) {
        struct ajit_ticket *ticket = oldest(executor, next_lane(&lanes));
        if (ticket && ticket->sequence <= resource->after) return true;
    }
    return false;
}

/* Tickets that are not retired. */
int ajit_flight_count(const struct ajit_executor *executor) {
    int count = 0;
    for (uint64_t lanes = executor->busy_lanes; lanes;)
        for (struct ajit_ticket *ticket = oldest(executor, next_lane(&lanes)); ticket;
             ticket = ticket->next)
            count++;
    return count;
}

/* The context is unusable: nothing runs on the device any more and no host function will come. */
void ajit_flight_lose(struct ajit_executor *executor, int code) {
    int none = 0;
    atomic_compare_exchange_strong(&executor->lost, &none, code);
    code = atomic_load(&executor->lost);
    atomic_store(&executor->heartbeat->lost, (uint64_t)code);
    for (uint64_t lanes = executor->busy_lanes; lanes;)
        for (struct ajit_ticket *ticket = oldest(executor, next_lane(&lanes)); ticket;
             ticket = ticket->next)
            ajit_ticket_settle(executor, ticket, code);
    ajit_flight_retire(executor);
}

/* A stream that says it is done has run its host functions, so a ticket on it that is still in
 * flight has lost its callback. */
static void check(struct ajit_executor *executor, struct ajit_ticket *ticket, CUresult stream_says,
                  uint64_t now) {
    uint64_t limit = ticket->deadline_ns ? ticket->deadline_ns : executor->options.deadline_ns;
    if (stream_says == CUDA_SUCCESS && ticket->timed)
        ajit_timer_collect(executor); /* its host function may have been here just now */
    if (ajit_ticket_retired(ticket)) return;
    if (stream_says == CUDA_SUCCESS) {
        if (ticket->has_callback)
            atomic_fetch_add_explicit(&executor->counters.lost_callbacks, 1, memory_order_relaxed);
        ajit_ticket_settle(executor, ticket, ticket->code);
    } else if (now - ticket->submitted_ns > limit) {
        ajit_ticket_expire(executor, ticket, now);
    }
}

/* What a code means for the context. If the driver does not know ajit's stream, or there is no
 * context, another library has reset the device, and perhaps set it up again without it. */
int ajit_flight_judge(struct ajit_executor *executor, int code) {
    if (code != CUDA_ERROR_INVALID_CONTEXT && code != CUDA_ERROR_INVALID_HANDLE) return code;
    int says = executor->driver.stream_query(executor->stream);
    bool gone = says == CUDA_ERROR_INVALID_CONTEXT || says == CUDA_ERROR_INVALID_HANDLE ||
                says == CUDA_ERROR_CONTEXT_IS_DESTROYED;
    return gone ? CUDA_ERROR_CONTEXT_IS_DESTROYED : code;
}

/* Whether a stream takes no work of ajit now, because another library captures it. The host
 * function that reports a ticket as done would be in the graph, and would run at every launch of
 * it. Asking for the capture state is allowed during a capture; a query would break it. */
int ajit_flight_refuses(struct ajit_executor *executor, CUstream stream) {
    int status = 0;
    int code = executor->driver.stream_is_capturing(stream, &status);
    return code ? code : status ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

/* Whether a stream has no work left. */
static CUresult ask(struct ajit_executor *executor, int lane, CUstream stream) {
    int code = lane == AJIT_SHARED_LANE ? ajit_flight_refuses(executor, stream) : CUDA_SUCCESS;
    if (code == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
        return CUDA_ERROR_NOT_READY; /* another time */
    return code ? code : executor->driver.stream_query(stream);
}

/* Asks the driver once per run of tickets of one stream, not once per ticket. Returns false if the
 * context turned out to be lost. */
static bool sweep_lane(struct ajit_executor *executor, int lane, uint64_t now) {
    CUstream asked = NULL;
    CUresult says = CUDA_ERROR_NOT_READY;
    for (struct ajit_ticket *ticket = oldest(executor, lane); ticket; ticket = ticket->next) {
        if (ajit_ticket_retired(ticket)) continue;
        if (ticket->stream != asked) {
            asked = ticket->stream;
            ajit_heartbeat_enter(executor, AJIT_ASKING, ticket->number);
            says = ajit_flight_judge(executor, ask(executor, lane, asked));
            ajit_heartbeat_leave(executor);
            if (ajit_driver_is_sticky(says)) {
                ajit_flight_lose(executor, says);
                return false;
            }
        }
        check(executor, ticket, says, now);
    }
    return true;
}

/* Looks after tickets whose host function does not come. */
void ajit_flight_sweep(struct ajit_executor *executor) {
    uint64_t now = ajit_now_ns();
    executor->swept_ns = now;
    for (uint64_t lanes = executor->busy_lanes; lanes;)
        if (!sweep_lane(executor, next_lane(&lanes), now)) return;
    ajit_flight_retire(executor);
}
