/* Device memory from a pool of ajit's own, in the order of a stream on which nothing else runs.
 *
 * cuMemFree waits for the whole device; a free into a pool does not wait. The pool is not the
 * device's current one, which other libraries share, so nothing they set or do changes this one,
 * nor the reverse.
 *
 * Order between streams. Memory is released to the pool when every ticket that may be using it has
 * retired (resource.c), so memory that the pool hands out is not in use. An allocation is work of
 * the memory stream, and may be used elsewhere only behind it. Mostly that stream is idle when it
 * is queried, and nothing waits. Otherwise the allocation's ticket is done when the stream gets
 * there, and a copy that came with it waits on the device (`ajit_pool_follow`). The executor's own
 * stream would not do: kernels run there, and an allocation would wait for them.
 *
 * Memory whose address others know may be in use in streams that ajit knows nothing of. Before such
 * is given back, everything on the device is waited for, in an idle moment: see wait_for_everybody.
 *
 * The pool keeps what is given back, so that the next allocation need not ask the device; the
 * release threshold would else return it whenever anybody in the process waits for a stream. It is
 * given back to the device when memory is short, after a time without work, and in the end.
 */
#include "executor.h"

/* Where there are no pools, or one cannot be made, memory is allocated plainly. */
void ajit_pool_open(struct ajit_executor *executor) {
    struct ajit_driver *driver = &executor->driver;
    const struct ajit_pool_properties properties = {
        .allocation_type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .location_type = CU_MEM_LOCATION_TYPE_DEVICE,
        .location = executor->device,
    };
    uint64_t everything = UINT64_MAX;
    bool complete = driver->pool_create && driver->pool_destroy && driver->pool_trim &&
                    driver->pool_set && driver->pool_get && driver->pool_alloc && driver->pool_free;
    if (executor->options.plain_memory || !executor->info.memory_pools || !complete) return;
    if (driver->pool_create(&executor->pool, &properties)) {
        executor->pool = NULL;
        return;
    }
    int code = driver->pool_set(executor->pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &everything);
    if (!code) code = driver->stream_create(&executor->memory_stream, CU_STREAM_NON_BLOCKING, 0);
    if (code) {
        driver->pool_destroy(executor->pool);
        executor->pool = NULL;
        return;
    }
    executor->memory_lane = ajit_lane_take(executor);
    executor->pool_trimmed = true;
}

/* Nothing is in flight, and everything was given back; frees that the stream is still at, the
 * driver finishes. */
void ajit_pool_close(struct ajit_executor *executor) {
    if (!executor->pool) return;
    executor->driver.stream_destroy(executor->memory_stream);
    executor->driver.pool_destroy(executor->pool);
    executor->pool = NULL;
}

/* The same if the context is lost. After a reset the driver does not know the pool any more; after
 * any other error the memory in the pool would be missing when the device is opened again. */
void ajit_pool_abandon(struct ajit_executor *executor) {
    if (executor->pool && atomic_load(&executor->lost) != CUDA_ERROR_CONTEXT_IS_DESTROYED)
        executor->driver.pool_destroy(executor->pool);
    executor->pool = NULL;
}

static uint64_t look(struct ajit_executor *executor) {
    uint64_t reserved = 0;
    int code =
        executor->driver.pool_get(executor->pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved);
    if (!code)
        atomic_store_explicit(&executor->counters.reserved_memory_bytes, reserved,
                              memory_order_relaxed);
    return reserved;
}

/* What the pool keeps counts as well where there is a limit. */
static void keep_within_limit(struct ajit_executor *executor) {
    uint64_t limit = executor->options.memory_limit_bytes;
    if (look(executor) <= limit || !limit) return;
    executor->driver.pool_trim(executor->pool, limit);
    look(executor);
}

int ajit_pool_alloc(struct ajit_executor *executor, CUdeviceptr *pointer, size_t size) {
    struct ajit_driver *driver = &executor->driver;
    int code = driver->pool_alloc(pointer, size, executor->pool, executor->memory_stream);
    if (code == CUDA_ERROR_OUT_OF_MEMORY && !executor->pool_trimmed) {
        /* What is kept may be in pieces that are too small. */
        ajit_pool_give_back(executor);
        code = driver->pool_alloc(pointer, size, executor->pool, executor->memory_stream);
    }
    if (code) return code;
    executor->pool_trimmed = false;
    keep_within_limit(executor);
    return CUDA_SUCCESS;
}

/* Python sets every bit when it hands an address out. */
bool ajit_pool_shares(const struct ajit_resource *resource) {
    return atomic_load(&resource->lanes) == ~(uint64_t)0;
}

/* Whether everything on the device was waited for since it was given back. */
static bool is_fenced(const struct ajit_executor *executor, const struct ajit_resource *resource) {
    return resource->deferred_ns < executor->fenced_ns;
}

/* Whether the memory can be given back only after a wait for everything on the device. */
bool ajit_pool_awaits(const struct ajit_executor *executor, const struct ajit_resource *resource) {
    return ajit_pool_shares(resource) && !is_fenced(executor, resource);
}

/* As a free of plain memory does, and by one: waiting for the context would break other libraries'
 * captures. One wait counts for all memory that was given back before it. */
static int wait_for_everybody(struct ajit_executor *executor) {
    CUdeviceptr fence = 0;
    uint64_t began = ajit_now_ns();
    int code = executor->driver.memory_alloc(&fence, 1);
    if (!code) code = executor->driver.memory_free(fence);
    if (!code) executor->fenced_ns = began;
    return code;
}

/* If it fails, the memory stays in the pool until the pool is destroyed: better than freeing an
 * address that is in use again. */
int ajit_pool_free(struct ajit_executor *executor, const struct ajit_resource *resource) {
    int code = ajit_pool_awaits(executor, resource) ? wait_for_everybody(executor) : CUDA_SUCCESS;
    if (!code) code = executor->driver.pool_free(resource->pointer, executor->memory_stream);
    executor->pool_trimmed = false;
    keep_within_limit(executor);
    return code;
}

/* Lets what comes next in the submission, or else its ticket, wait until the allocation has
 * happened. */
int ajit_pool_follow(struct ajit_executor *executor, struct ajit_ticket *ticket, bool *enqueued) {
    CUstream memory_stream = executor->memory_stream;
    int code = executor->driver.stream_query(memory_stream);
    if (code != CUDA_ERROR_NOT_READY) return code;
    *enqueued = true;
    if (ticket->count > 1)
        return ajit_stream_join(executor, ticket, (uint64_t)(uintptr_t)memory_stream);
    ticket->stream = memory_stream;
    ticket->lane = executor->memory_lane;
    return CUDA_SUCCESS;
}

/* Gives the device what the pool keeps. Does not wait. */
void ajit_pool_give_back(struct ajit_executor *executor) {
    if (!executor->pool || executor->pool_trimmed || atomic_load(&executor->lost)) return;
    /* Only frees that were seen to be done can be given back: else there will be more, later. */
    bool all = executor->driver.stream_query(executor->memory_stream) == CUDA_SUCCESS;
    executor->driver.pool_trim(executor->pool, 0);
    executor->pool_trimmed = all;
    look(executor);
}

/* Whether there are frees on their way of which the driver has not seen the end: until then an
 * allocation may find no room although there will be. */
bool ajit_pool_owes(struct ajit_executor *executor) {
    return executor->pool && !executor->pool_trimmed &&
           executor->driver.stream_query(executor->memory_stream) == CUDA_ERROR_NOT_READY;
}

/* How long the thread sleeps before the pool releases memory; 0: it has none to release. */
uint64_t ajit_pool_idle_ns(const struct ajit_executor *executor) {
    return executor->pool && !executor->pool_trimmed ? executor->options.pool_idle_ns : 0;
}
