/* The executor's life: made, submitted to from any thread, served by one thread, ended.
 *
 * The serve loop takes everything from one ring, so there is one order. Work goes to the driver at
 * once. Loads and allocations step aside to a second queue that is served while no work waits: no
 * work can depend on them, for nobody has their result yet. Frees come by the post box and wait for
 * an idle moment. A Python callable is a barrier: all that was submitted before it, second lane
 * included, is performed first.
 */
#include "executor.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How often the thread looks after tickets in flight whose host function does not come: bounds the
 * time from a failing kernel to its DeviceLost. A look costs about a microsecond. */
enum { SWEEP_NS = 50 * 1000 * 1000 };
/* The same while memory is used up and only a finishing ticket can make room. */
enum { STARVED_NS = 1000 * 1000 };
/* Under unbroken load, how many submissions pass between two looks at frees and overdue tickets. */
enum { BUSY_LOOKS = 256 };

struct ajit_executor *ajit_executor_create(const char *library, const struct ajit_options *options)
{
    struct ajit_executor *executor;
    if (posix_memalign((void **)&executor, alignof(struct ajit_executor), sizeof *executor))
        return NULL;
    memset(executor, 0, sizeof *executor);
    executor->options = *options;
    executor->deferred_end = &executor->deferred;
    executor->resources.next = executor->resources.previous = &executor->resources;
    executor->slots = calloc(options->capacity, sizeof *executor->slots);
    if (!executor->slots || strlen(library) >= sizeof executor->library) {
        ajit_executor_destroy(executor);
        return NULL;
    }
    strcpy(executor->library, library);
    for (uint64_t i = 0; i < options->capacity; i++)
        atomic_init(&executor->slots[i].turn, i);
    return executor;
}

/* Only when no thread serves it and no Python object has its address any more. */
void ajit_executor_destroy(struct ajit_executor *executor)
{
    struct ajit_ticket *ticket; /* a stop, if the thread never started */
    while (executor->slots && (ticket = ajit_ring_pop(executor)))
        ajit_ticket_drop(ticket);
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
    free(executor);
}

/* --- submitting: any thread -------------------------------------------------------------------- */

static struct ajit_ticket *make_ticket(const struct ajit_submission *submission)
{
    struct ajit_ticket *ticket = malloc(sizeof *ticket + submission->bytes);
    if (!ticket)
        return NULL;
    memset(ticket, 0, sizeof *ticket);
    ticket->port = (struct ajit_port *)(uintptr_t)submission->port;
    ticket->number = submission->number;
    ticket->stream = (CUstream)(uintptr_t)submission->stream;
    ticket->count = submission->count;
    ticket->bytes = submission->bytes;
    ticket->submitted_ns = ajit_now_ns();
    atomic_init(&ticket->references, 1);
    memcpy(ticket->operations, submission + 1, submission->bytes);
    atomic_fetch_add(&ticket->port->references, 1);
    return ticket;
}

/* Returns AJIT_ACCEPTED, or why the submission was refused; then nothing happened. */
int ajit_submit(const struct ajit_submission *submission)
{
    struct ajit_executor *executor = ((struct ajit_port *)(uintptr_t)submission->port)->executor;
    /* Counted, so that ajit_serve_end can wait until nobody is between this check and the push. */
    atomic_fetch_add(&executor->submitting, 1);
    int refusal = AJIT_ACCEPTED;
    struct ajit_ticket *ticket = NULL;
    if (atomic_load(&executor->stopped))
        refusal = AJIT_STOPPED;
    else if (atomic_load(&executor->lost) && *(const uint32_t *)(submission + 1) < AJIT_CLOSE_PORT)
        refusal = AJIT_LOST;
    else if (!(ticket = make_ticket(submission)))
        refusal = AJIT_NO_MEMORY;
    else if (!ajit_ring_push(executor, ticket))
        refusal = AJIT_FULL;
    if (refusal && ticket)
        ajit_ticket_drop(ticket);
    atomic_fetch_sub(&executor->submitting, 1);
    if (!refusal)
        ajit_ring_wake(executor);
    return refusal;
}

/* --- serving: the CUDA thread ------------------------------------------------------------------ */

static int read_device(struct ajit_executor *executor)
{
    struct ajit_driver *driver = &executor->driver;
    struct ajit_device_info *info = &executor->info;
    size_t total = 0;
    const struct {
        int attribute;
        int32_t *value;
    } wanted[] = {
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, &info->major},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, &info->minor},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, &info->max_threads},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, &info->max_block[0]},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X + 1, &info->max_block[1]},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X + 2, &info->max_block[2]},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, &info->max_grid[0]},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X + 1, &info->max_grid[1]},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X + 2, &info->max_grid[2]},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, &info->shared_bytes},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, &info->shared_optin_bytes},
        {CU_DEVICE_ATTRIBUTE_WARP_SIZE, &info->warp_size},
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &info->multiprocessors},
    };
    int code = driver->device_name(info->name, sizeof info->name, executor->device);
    if (!code)
        code = driver->device_total_memory(&total, executor->device);
    info->total_memory_bytes = total;
    for (size_t i = 0; !code && i < sizeof wanted / sizeof *wanted; i++)
        code = driver->device_attribute(wanted[i].value, wanted[i].attribute, executor->device);
    return code;
}

static int open_context(struct ajit_executor *executor)
{
    struct ajit_driver *driver = &executor->driver;
    int mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    int code = driver->context_retain(&executor->context, executor->device);
    if (code)
        return code;
    code = driver->context_set_current(executor->context);
    if (!code)
        code = driver->stream_create(&executor->stream, CU_STREAM_NON_BLOCKING, 0);
    /* Somebody else's capture on another stream must not be broken by a load or a free here. */
    if (!code)
        code = driver->exchange_capture_mode(&mode);
    if (code)
        driver->context_release(executor->device);
    return code;
}

/* Opens driver, device, context and stream on the calling thread. Returns 0, a driver code, or -1 if
 * the library itself cannot be used; `error` then says why. */
int ajit_serve_begin(struct ajit_executor *executor, const char *thread_name)
{
    struct ajit_driver *driver = &executor->driver;
    int count = 0;
    pthread_setname_np(pthread_self(), thread_name); /* fails only for a name above 15 characters */
    if (ajit_driver_open(driver, executor->library, executor->error, sizeof executor->error))
        return -1;
    int code = driver->init(0);
    if (!code)
        code = driver->driver_version(&executor->info.driver_version);
    if (!code)
        code = driver->device_count(&count);
    if (!code && executor->options.ordinal >= count) {
        snprintf(executor->error, sizeof executor->error, "there are %d devices", count);
        return CUDA_ERROR_NO_DEVICE;
    }
    if (!code)
        code = driver->device_get(&executor->device, executor->options.ordinal);
    if (!code)
        code = read_device(executor);
    return code ? code : open_context(executor);
}

static void enter(struct ajit_executor *executor)
{
    atomic_store_explicit(&executor->counters.entered_ns, ajit_now_ns(), memory_order_relaxed);
}

static void look_after(struct ajit_executor *executor)
{
    executor->unlooked = 0;
    executor->starved = false;
    ajit_flight_retire(executor);
    if (executor->flight.first && ajit_now_ns() - executor->swept_ns > SWEEP_NS)
        ajit_flight_sweep(executor);
}

static void finish(struct ajit_executor *executor, struct ajit_ticket *ticket, int code)
{
    ajit_ticket_settle(executor, ticket, code);
    ajit_ticket_drop(ticket);
}

static void close_port(struct ajit_executor *executor, struct ajit_ticket *ticket)
{
    ajit_flight_retire(executor);
    while (ajit_resource_tidy(executor, AJIT_WHEN_SAFE))
        continue;
    ajit_resource_close_port(executor, ticket->port);
    finish(executor, ticket, 0);
}

static void serve_second_lane(struct ajit_executor *executor)
{
    struct ajit_ticket *ticket = ajit_queue_pop(&executor->service);
    if (ticket)
        ajit_perform(executor, ticket);
}

/* Takes one submission. Returns its opcode if Python has to act on it, else 0. */
static int take(struct ajit_executor *executor, struct ajit_ticket *ticket, uint64_t *number)
{
    uint32_t opcode = ((const struct ajit_operation *)ticket->operations)->opcode;
    if (opcode < AJIT_ALLOC) {
        ajit_perform(executor, ticket);
        return 0;
    }
    if (opcode < AJIT_CLOSE_PORT) {
        ajit_queue_push(&executor->service, ticket);
        return 0;
    }
    executor->stopping = opcode == AJIT_STOP;
    while (executor->service.first) {
        serve_second_lane(executor);
        look_after(executor);
        if (executor->service.first)
            sched_yield(); /* it may be the same one, waiting for memory */
    }
    if (opcode == AJIT_CLOSE_PORT) {
        close_port(executor, ticket);
        return 0;
    }
    *number = ticket->number;
    if (opcode == AJIT_CALL)
        executor->call = ticket;
    else
        finish(executor, ticket, 0);
    return (int)opcode;
}

/* Nothing is submitted: tidy up, then wait. */
static void rest(struct ajit_executor *executor)
{
    ajit_flight_retire(executor);
    if (ajit_resource_tidy(executor, AJIT_WHEN_IDLE))
        return;
    atomic_store_explicit(&executor->counters.entered_ns, 0, memory_order_relaxed);
    bool busy = executor->flight.first || executor->deferred || executor->held;
    uint64_t limit_ns = executor->starved ? STARVED_NS : busy ? SWEEP_NS : 0;
    bool woken = ajit_ring_wait(executor, limit_ns);
    enter(executor);
    if (!woken)
        look_after(executor);
}

/* Serves until Python has to act. Returns AJIT_CALL (the callable of ticket `number` is next) or
 * AJIT_STOP. */
int ajit_serve(struct ajit_executor *executor, uint64_t *number)
{
    enter(executor);
    for (;;) {
        struct ajit_ticket *ticket = ajit_ring_pop(executor);
        if (ticket) {
            int opcode = take(executor, ticket, number);
            if (opcode)
                return opcode;
        } else if (executor->service.first && !executor->starved) {
            serve_second_lane(executor);
        } else {
            rest(executor);
        }
        if (++executor->unlooked > BUSY_LOOKS) {
            look_after(executor);
            ajit_resource_tidy(executor, AJIT_WHEN_IDLE);
        }
    }
}

/* The callable that ajit_serve came up for has returned. */
void ajit_serve_called(struct ajit_executor *executor, int code)
{
    struct ajit_ticket *ticket = executor->call;
    executor->call = NULL;
    if (ticket)
        finish(executor, ticket, code);
}

static void refuse_the_rest(struct ajit_executor *executor)
{
    struct ajit_ticket *ticket;
    atomic_store(&executor->stopped, 1);
    while (atomic_load(&executor->submitting))
        sched_yield();
    while ((ticket = ajit_ring_pop(executor)))
        finish(executor, ticket, CUDA_ERROR_DEINITIALIZED);
}

/* Ends: what is still in the ring fails, resources are freed, the context is released. Returns how
 * many tickets the device is still at; if any, nothing is freed, since that could wait for ever. */
int ajit_serve_end(struct ajit_executor *executor)
{
    int left = 0;
    refuse_the_rest(executor);
    ajit_flight_retire(executor);
    if (executor->flight.first)
        ajit_flight_sweep(executor);
    for (struct ajit_ticket *ticket = executor->flight.first; ticket; ticket = ticket->next)
        left++;
    bool usable = !left && !atomic_load(&executor->lost);
    ajit_resource_end(executor, usable);
    if (usable)
        executor->driver.stream_destroy(executor->stream);
    if (!left)
        executor->driver.context_release(executor->device);
    /* The host function of a ticket that is left may still come: its memory stays. */
    return left;
}

/* Sizes of what Python mirrors, for a test. */
void ajit_layout(uint64_t *sizes)
{
    const uint64_t known[] = {
        sizeof(struct ajit_submission), sizeof(struct ajit_launch), sizeof(struct ajit_copy),
        sizeof(struct ajit_fill), sizeof(struct ajit_alloc), sizeof(struct ajit_load),
        sizeof(struct ajit_record), sizeof(struct ajit_function), sizeof(struct ajit_device_info),
        sizeof(struct ajit_counters), sizeof(struct ajit_options),
        offsetof(struct ajit_port, wanted), offsetof(struct ajit_port, records),
        offsetof(struct ajit_port, event_fd), offsetof(struct ajit_executor, info),
        offsetof(struct ajit_executor, counters), offsetof(struct ajit_executor, error),
        offsetof(struct ajit_executor, lost),
    };
    memcpy(sizes, known, sizeof known);
}
