/* Memory and modules: made on the second lane, freed when nothing can be using them any more.
 *
 * Python owns the record and posts it once (`ajit_post`), from a finalizer as well: a push on a
 * list, without a system call while the CUDA thread is awake. A free must not overtake a launch
 * that was submitted before it, and must not stop the thread: cuMemFree waits for the device. So a
 * posted resource first waits until the ring has passed the place where it stood at the time, then
 * until everything dispatched by then has retired, then, unless it goes to a pool, for an idle
 * moment.
 */
#include "executor.h"

#include <stdlib.h>
#include <string.h>

/* How long a free waits for an idle moment before it is done between launches. Arbitrary: long
 * enough for most servers to pause, short enough for memory not to pile up. */
enum { PATIENCE_NS = 200 * 1000 * 1000 };
/* Nor longer than until so much of the device's memory waits: one part of 16 of what ajit may have.
 * Arbitrary. */
enum { AWAITED_SHARE = 16 };
/* How many of those that wait are looked at for one that need not. Pretty arbitrary: a look costs
 * some nanoseconds, and the thread has other things to do. */
enum { DEFERRED_LOOKS = 64 };

/* `lanes` says where it was used, see flight.c; all bits where that is not known. */
void ajit_post(struct ajit_executor *executor, struct ajit_resource *resource, uint64_t lanes) {
    atomic_fetch_or(&resource->lanes, lanes);
    if (atomic_fetch_sub(&resource->holds, 1) != 1)
        return; /* another library still has it, as a tensor */
    struct ajit_resource *head = atomic_load(&executor->posts);
    do resource->posted = head;
    while (!atomic_compare_exchange_weak(&executor->posts, &head, resource));
    ajit_ring_wake(executor);
    ajit_executor_leave(executor); /* last: this may have been the one that kept it */
}

struct ajit_resource *ajit_resource_make(struct ajit_executor *executor, struct ajit_ticket *ticket,
                                         uint64_t kind) {
    struct ajit_resource *resource = calloc(1, sizeof *resource);
    if (!resource) return NULL;
    resource->kind = kind;
    resource->port = ticket->port;
    atomic_init(&resource->holds, 1);
    resource->alive = true;
    atomic_fetch_add(&executor->users, 1);
    resource->next = executor->resources.next;
    resource->previous = &executor->resources;
    resource->next->previous = resource;
    executor->resources.next = resource;
    atomic_fetch_add_explicit(&executor->counters.live_resources, 1, memory_order_relaxed);
    ticket->made = resource;
    return resource;
}

static void forget_functions(struct ajit_resource *resource) {
    for (uint64_t i = 0; resource->functions && i < resource->size; i++)
        free(resource->functions[i].param_offsets);
    free(resource->functions);
    resource->functions = NULL;
}

/* The driver has it no more; the record stays until Python gives it back. */
static void forget(struct ajit_executor *executor, struct ajit_resource *resource) {
    resource->alive = false;
    resource->previous->next = resource->next;
    resource->next->previous = resource->previous;
    atomic_fetch_sub_explicit(&executor->counters.live_resources, 1, memory_order_relaxed);
    if (resource->kind == AJIT_MEMORY)
        atomic_fetch_sub_explicit(&executor->counters.live_memory_bytes, resource->size,
                                  memory_order_relaxed);
}

static void discard_record(struct ajit_resource *resource) {
    forget_functions(resource);
    free(resource);
}

/* Python never gets to see it, so it will not give it back. */
void ajit_resource_keep_back(struct ajit_executor *executor, struct ajit_resource *resource) {
    resource->released = true;
    ajit_executor_leave(executor);
}

/* What was made for the ticket never came to be. */
void ajit_resource_unmake(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    forget(executor, ticket->made);
    ajit_resource_keep_back(executor, ticket->made);
    discard_record(ticket->made);
    ticket->made = NULL;
}

static bool above_limit(struct ajit_executor *executor, uint64_t size) {
    uint64_t limit = executor->options.memory_limit_bytes;
    uint64_t live =
        atomic_load_explicit(&executor->counters.live_memory_bytes, memory_order_relaxed);
    return limit && (size > limit || live > limit - size);
}

static int allocate(struct ajit_executor *executor, struct ajit_resource *resource, uint64_t size) {
    struct ajit_driver *driver = &executor->driver;
    if (resource->kind == AJIT_MEMORY) {
        CUdeviceptr pointer = 0;
        if (above_limit(executor, size)) return CUDA_ERROR_OUT_OF_MEMORY;
        int code = executor->pool ? ajit_pool_alloc(executor, &pointer, size)
                                  : driver->memory_alloc(&pointer, size);
        resource->pointer = pointer;
        return code;
    }
    void *pointer = NULL;
    int code = driver->host_alloc(&pointer, size, 0);
    resource->pointer = (uint64_t)(uintptr_t)pointer;
    return code;
}

/* Whether there are frees to come that could make room, and there is time to wait. */
static bool may_wait(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    bool given_back = executor->held || atomic_load(&executor->posts);
    return (given_back || ajit_resource_waits(executor) || ajit_pool_owes(executor)) &&
           !executor->stopping &&
           ajit_now_ns() - ticket->submitted_ns < executor->options.deadline_ns;
}

/* Memory that was given back but not freed yet is no reason to fail. */
static int allocate_patiently(struct ajit_executor *executor, struct ajit_ticket *ticket,
                              struct ajit_resource *resource, uint64_t size) {
    int code = allocate(executor, resource, size);
    while (code == CUDA_ERROR_OUT_OF_MEMORY && ajit_resource_tidy(executor, AJIT_WHEN_SAFE))
        code = allocate(executor, resource, size);
    if (code == CUDA_ERROR_OUT_OF_MEMORY && may_wait(executor, ticket)) code = AJIT_LATER;
    return code;
}

int ajit_resource_alloc(struct ajit_executor *executor, struct ajit_ticket *ticket, uint64_t kind,
                        uint64_t size, bool *enqueued) {
    struct ajit_resource *resource = ajit_resource_make(executor, ticket, kind);
    if (!resource) return CUDA_ERROR_OUT_OF_MEMORY;
    int code = allocate_patiently(executor, ticket, resource, size);
    if (code) {
        ajit_resource_unmake(executor, ticket); /* its size is still 0 */
        return code;
    }
    resource->size = size;
    if (kind == AJIT_MEMORY)
        atomic_fetch_add_explicit(&executor->counters.live_memory_bytes, size,
                                  memory_order_relaxed);
    atomic_fetch_add_explicit(&executor->counters.allocations, 1, memory_order_relaxed);
    if (kind == AJIT_MEMORY && executor->pool) return ajit_pool_follow(executor, ticket, enqueued);
    return CUDA_SUCCESS;
}

/* Lets the driver know memory that Python has made, for all contexts, and keeps until `ended` is
 * set. What another context has registered is noted, if it may be: copies are cut there. */
int ajit_resource_register(struct ajit_executor *executor, struct ajit_ticket *ticket,
                           const struct ajit_region *op) {
    _Atomic uint64_t *ended = (_Atomic uint64_t *)(uintptr_t)op->ended;
    struct ajit_resource *resource = ajit_resource_make(executor, ticket, AJIT_REGISTERED);
    void *address = (void *)(uintptr_t)op->address;
    int code = resource ? ajit_known_reserve(&executor->known) : CUDA_ERROR_OUT_OF_MEMORY;
    if (!code)
        code = executor->driver.host_register(address, op->size, CU_MEMHOSTREGISTER_PORTABLE);
    bool noted = op->shared && code == CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    if (code && !noted) {
        if (resource) ajit_resource_unmake(executor, ticket);
        atomic_store(ended, 1);
        return code;
    }
    resource->pointer = op->address;
    resource->size = noted ? 0 : op->size;
    resource->ended = ended;
    ajit_known_add(&executor->known, op->address, op->size);
    return CUDA_SUCCESS;
}

static int unregister(struct ajit_driver *driver, const struct ajit_resource *resource) {
    void *address = (void *)(uintptr_t)resource->pointer;
    return resource->size ? driver->host_unregister(address) : CUDA_SUCCESS;
}

static int give_to_driver(struct ajit_executor *executor, struct ajit_resource *resource) {
    struct ajit_driver *driver = &executor->driver;
    switch (resource->kind) {
    case AJIT_MEMORY:
        return executor->pool ? ajit_pool_free(executor, resource)
                              : driver->memory_free(resource->pointer);
    case AJIT_HOST_MEMORY: return driver->host_free((void *)(uintptr_t)resource->pointer);
    case AJIT_REGISTERED: return unregister(driver, resource);
    case AJIT_STREAM:
        ajit_lane_leave(executor, resource->size);
        return driver->stream_destroy((CUstream)(uintptr_t)resource->pointer);
    case AJIT_EVENT: return driver->event_destroy((CUevent)(uintptr_t)resource->pointer);
    case AJIT_GRAPH: return driver->graph_exec_destroy((CUgraphExec)(uintptr_t)resource->pointer);
    default: return driver->module_unload((CUmodule)(uintptr_t)resource->pointer);
    }
}

void ajit_resource_free_now(struct ajit_executor *executor, struct ajit_resource *resource) {
    if (resource->alive) {
        /* In a lost context the memory went with it. */
        int code = 0;
        if (!atomic_load(&executor->lost)) {
            ajit_heartbeat_enter(executor, AJIT_FREEING, 0);
            code = give_to_driver(executor, resource);
            ajit_heartbeat_leave(executor);
        }
        forget(executor, resource);
        if (resource->kind == AJIT_REGISTERED)
            ajit_known_remove(&executor->known, resource->pointer);
        if (resource->ended) atomic_store(resource->ended, 1);
        if (ajit_driver_is_sticky(code)) ajit_flight_lose(executor, code);
    }
    if (resource->released) discard_record(resource);
}

/* Whether freeing it waits for all of the device: memory of no pool or that others know, and
 * modules. */
static bool waits_for_device(const struct ajit_executor *executor,
                             const struct ajit_resource *resource) {
    bool pooled =
        resource->kind == AJIT_MEMORY && executor->pool && !ajit_pool_awaits(executor, resource);
    return resource->kind < AJIT_STREAM && !pooled;
}

static uint64_t device_bytes(const struct ajit_resource *resource) {
    return resource->kind == AJIT_MEMORY ? resource->size : 0;
}

static void append(struct ajit_free_list *list, struct ajit_resource *resource) {
    resource->behind = NULL;
    *list->end = resource;
    list->end = &resource->behind;
}

/* Frees the resource once everything dispatched so far in its lanes has retired. One that was
 * deferred when its loop left may be given back by Python before that. */
void ajit_resource_defer(struct ajit_executor *executor, struct ajit_resource *resource) {
    resource->after = executor->next_sequence;
    if (resource->deferred) return;
    resource->deferred = true;
    resource->deferred_ns = ajit_now_ns();
    resource->awaited = waits_for_device(executor, resource);
    if (resource->awaited) executor->awaited_bytes += device_bytes(resource);
    append(resource->awaited ? &executor->awaited : &executor->pooled, resource);
    atomic_fetch_add_explicit(&executor->counters.deferred_frees, 1, memory_order_relaxed);
}

/* Whether something was given back and is not freed yet. */
bool ajit_resource_waits(const struct ajit_executor *executor) {
    return executor->pooled.first || executor->awaited.first;
}

static void take_posts(struct ajit_executor *executor) {
    if (executor->held || !atomic_load(&executor->posts)) return;
    executor->held = atomic_exchange(&executor->posts, NULL);
    /* Read after the exchange: what was submitted before these posts stands before this place. */
    executor->held_until = atomic_load(&executor->tail);
}

static void release_held(struct ajit_executor *executor) {
    uint64_t head = atomic_load_explicit(&executor->head, memory_order_relaxed);
    if ((int64_t)(head - executor->held_until) < 0) return;
    while (executor->held) {
        struct ajit_resource *resource = executor->held;
        executor->held = resource->posted;
        resource->released = true;
        ajit_resource_defer(executor, resource);
    }
}

/* Whether the next wait for the device is put off no longer: the resource has waited long enough,
 * or there is much memory that waits. */
static bool is_due(const struct ajit_executor *executor, const struct ajit_resource *resource) {
    uint64_t limit = executor->options.memory_limit_bytes;
    uint64_t bytes = limit ? limit : executor->info.total_memory_bytes;
    return executor->awaited_bytes > bytes / AWAITED_SHARE ||
           ajit_now_ns() - resource->deferred_ns > PATIENCE_NS;
}

static bool may_free(const struct ajit_executor *executor, const struct ajit_resource *resource,
                     enum ajit_urgency urgency) {
    if (urgency == AJIT_AT_ONCE || !executor->busy_lanes) return true;
    if (ajit_flight_uses(executor, resource)) return false;
    if (urgency == AJIT_WHEN_SAFE || !waits_for_device(executor, resource)) return true;
    return is_due(executor, resource);
}

/* The place of the oldest resource that may be freed, or NULL. Not only the first is looked at: it
 * may wait for a slow stream, and what others gave back would wait with it. */
static struct ajit_resource **find_free(const struct ajit_executor *executor,
                                        struct ajit_free_list *list, enum ajit_urgency urgency) {
    struct ajit_resource **place = &list->first;
    for (int looked = 0; *place && looked < DEFERRED_LOOKS; looked++, place = &(*place)->behind)
        if (may_free(executor, *place, urgency)) return place;
    return NULL;
}

static struct ajit_resource *take_out(struct ajit_free_list *list, struct ajit_resource **place) {
    struct ajit_resource *resource = *place;
    *place = resource->behind;
    if (list->end == &resource->behind) list->end = place;
    return resource;
}

/* Frees at most one resource; returns whether it did. */
bool ajit_resource_tidy(struct ajit_executor *executor, enum ajit_urgency urgency) {
    take_posts(executor);
    if (executor->held) release_held(executor);
    struct ajit_free_list *list = &executor->pooled;
    struct ajit_resource **place = find_free(executor, list, urgency);
    if (!place) {
        list = &executor->awaited;
        place = find_free(executor, list, urgency);
    }
    if (!place) return false;
    struct ajit_resource *resource = take_out(list, place);
    resource->deferred = false;
    if (resource->awaited) executor->awaited_bytes -= device_bytes(resource);
    atomic_fetch_sub_explicit(&executor->counters.deferred_frees, 1, memory_order_relaxed);
    ajit_resource_free_now(executor, resource);
    return true;
}

/* A loop leaves: its resources go, whether or not Python has given their records back. Work of
 * another loop may be in flight, and may be using them: then they go after it. */
void ajit_resource_close_port(struct ajit_executor *executor, struct ajit_port *port) {
    struct ajit_resource *resource = executor->resources.next;
    for (; resource != &executor->resources; resource = resource->next) {
        if (resource->port != port) continue;
        resource->port = NULL; /* another port may come to stand at its address */
        atomic_store(&resource->lanes, ~(uint64_t)0);
        ajit_resource_defer(executor, resource);
    }
    while (ajit_resource_tidy(executor, AJIT_WHEN_IDLE)) continue;
}

/* The thread ends. With an unusable driver only the records go. */
void ajit_resource_end(struct ajit_executor *executor, bool driver_usable) {
    if (!driver_usable) {
        int none = 0;
        atomic_compare_exchange_strong(&executor->lost, &none, CUDA_ERROR_DEINITIALIZED);
    }
    executor->held_until = atomic_load(&executor->head);
    while (ajit_resource_tidy(executor, AJIT_AT_ONCE) || executor->held) continue;
    while (executor->resources.next != &executor->resources)
        ajit_resource_free_now(executor, executor->resources.next);
}
