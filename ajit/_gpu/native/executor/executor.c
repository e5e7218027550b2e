/* The executor's life: made, submitted to from any thread, and freed. The rules stand in
 * executor.h. */
#include "executor.h"

#include <stdlib.h>
#include <string.h>

struct ajit_executor *ajit_executor_create(const char *library,
                                           const struct ajit_options *options) {
    struct ajit_executor *executor;
    if (posix_memalign((void **)&executor, alignof(struct ajit_executor), sizeof *executor))
        return NULL;
    memset(executor, 0, sizeof *executor);
    atomic_init(&executor->users, 1);
    executor->options = *options;
    executor->pooled.end = &executor->pooled.first;
    executor->awaited.end = &executor->awaited.first;
    executor->resources.next = executor->resources.previous = &executor->resources;
    executor->slots = calloc(options->capacity, sizeof *executor->slots);
    if (ajit_heartbeat_open(executor) || !executor->slots ||
        strlen(library) >= sizeof executor->library) {
        ajit_executor_destroy(executor);
        return NULL;
    }
    strcpy(executor->library, library);
    for (uint64_t i = 0; i < options->capacity; i++) atomic_init(&executor->slots[i].turn, i);
    return executor;
}

static void destroy(struct ajit_executor *executor) {
    struct ajit_ticket *ticket; /* a stop, if the thread never started */
    while (executor->slots && (ticket = ajit_ring_pop(executor))) ajit_ticket_drop(ticket);
    struct ajit_resource *resource = atomic_load(&executor->posts);
    while (resource) { /* given back after the end */
        struct ajit_resource *next = resource->posted;
        for (uint64_t i = 0; resource->functions && i < resource->size; i++)
            free(resource->functions[i].param_offsets);
        free(resource->functions);
        free(resource);
        resource = next;
    }
    free(executor->slots);
    free(executor->pieces);
    ajit_known_free(&executor->known);
    ajit_heartbeat_close(executor);
    free(executor);
}

/* One user less: the last one to go frees it. */
void ajit_executor_leave(struct ajit_executor *executor) {
    if (atomic_fetch_sub(&executor->users, 1) == 1) destroy(executor);
}

/* Only when no thread serves it any more. Resources may still be given back. */
void ajit_executor_destroy(struct ajit_executor *executor) { ajit_executor_leave(executor); }

static struct ajit_ticket *make_ticket(const struct ajit_submission *submission) {
    struct ajit_ticket *ticket = malloc(sizeof *ticket + submission->bytes);
    if (!ticket) return NULL;
    memset(ticket, 0, sizeof *ticket);
    ticket->port = (struct ajit_port *)(uintptr_t)submission->port;
    ticket->number = submission->number;
    ticket->stream = (CUstream)(uintptr_t)submission->stream;
    ticket->lane = submission->lane & ~(uint64_t)AJIT_TIME;
    ticket->timed = submission->lane & AJIT_TIME;
    ticket->deadline_ns = submission->deadline_ns;
    ticket->count = submission->count;
    ticket->bytes = submission->bytes;
    ticket->submitted_ns = ajit_now_ns();
    atomic_init(&ticket->references, 1);
    memcpy(ticket->operations, submission + 1, submission->bytes);
    atomic_fetch_add(&ticket->port->references, 1);
    return ticket;
}

/* Returns AJIT_ACCEPTED, or why the submission was refused; then nothing happened. */
int ajit_submit(const struct ajit_submission *submission) {
    struct ajit_executor *executor = ((struct ajit_port *)(uintptr_t)submission->port)->executor;
    /* Counted, so that ajit_serve_end can wait until no thread is between this check and the push.
     */
    atomic_fetch_add(&executor->submitting, 1);
    int refusal = AJIT_ACCEPTED;
    struct ajit_ticket *ticket = NULL;
    if (atomic_load(&executor->stopped)) refusal = AJIT_STOPPED;
    else if (atomic_load(&executor->lost) && *(const uint32_t *)(submission + 1) < AJIT_CLOSE_PORT)
        refusal = AJIT_LOST;
    else if (!(ticket = make_ticket(submission))) refusal = AJIT_NO_MEMORY;
    else if (!ajit_ring_push(executor, ticket)) refusal = AJIT_FULL;
    if (refusal && ticket) ajit_ticket_drop(ticket);
    atomic_fetch_sub(&executor->submitting, 1);
    if (!refusal) ajit_ring_wake(executor);
    return refusal;
}
