/* Streams and events: made on the second lane, destroyed like all resources, in idle time. */
#include "executor.h"

static int keep(struct ajit_executor *executor, struct ajit_ticket *ticket, int code,
                const void *handle, uint64_t size) {
    if (code) {
        ajit_resource_unmake(executor, ticket);
        return code;
    }
    ticket->made->pointer = (uint64_t)(uintptr_t)handle;
    ticket->made->size = size;
    return CUDA_SUCCESS;
}

int ajit_stream_make(struct ajit_executor *executor, struct ajit_ticket *ticket, int64_t priority) {
    CUstream stream = NULL;
    if (!ajit_resource_make(executor, ticket, AJIT_STREAM)) return CUDA_ERROR_OUT_OF_MEMORY;
    /* Never one that waits for the legacy default stream: other libraries use that. */
    int code = executor->driver.stream_create(&stream, CU_STREAM_NON_BLOCKING, (int)priority);
    return keep(executor, ticket, code, stream, code ? 0 : ajit_lane_take(executor));
}

int ajit_event_make(struct ajit_executor *executor, struct ajit_ticket *ticket, uint64_t flags) {
    CUevent event = NULL;
    if (!ajit_resource_make(executor, ticket, AJIT_EVENT)) return CUDA_ERROR_OUT_OF_MEMORY;
    int code = executor->driver.event_create(&event, (unsigned)flags);
    return keep(executor, ticket, code, event, 0);
}

/* Lets the ticket's stream wait for everything that another one has been given so far. One event
 * serves all: a wait refers to what was recorded when it was enqueued, whatever is recorded
 * later. */
int ajit_stream_join(struct ajit_executor *executor, struct ajit_ticket *ticket, uint64_t other) {
    struct ajit_driver *driver = &executor->driver;
    CUstream waited_for = other ? (CUstream)(uintptr_t)other : executor->stream;
    int code = CUDA_SUCCESS;
    if (!executor->join_event)
        code = driver->event_create(&executor->join_event, CU_EVENT_DISABLE_TIMING);
    if (!code) code = driver->event_record(executor->join_event, waited_for);
    return code ? code : driver->stream_wait_event(ticket->stream, executor->join_event, 0);
}

/* Answers how long the device took from one event to the other, in the ticket's detail. */
int ajit_event_elapsed(struct ajit_executor *executor, struct ajit_ticket *ticket,
                       const struct ajit_elapsed *op) {
    float milliseconds = 0;
    int code = executor->driver.event_elapsed(&milliseconds, (CUevent)(uintptr_t)op->start,
                                              (CUevent)(uintptr_t)op->end);
    if (!code && milliseconds > 0) ticket->detail = (uint64_t)((double)milliseconds * 1e6);
    return code;
}
