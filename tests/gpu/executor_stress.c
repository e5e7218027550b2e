/* Several threads submit, wait, give memory back and leave while one thread serves: for the sanitizers.
 *
 * Usage: executor_stress DRIVER ROUNDS. Exits 0 if every ticket was settled and retired once. No
 * kernels: the fibers that run them are not known to the sanitizers.
 */
#include "executor.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 3, BURST = 40 };

static struct ajit_executor *executor;
static int rounds;
static _Atomic uint64_t numbers = 1;
static _Atomic int failures;

static pthread_barrier_t begun;
static int left = -1;

static void *serve(void *argument)
{
    uint64_t number;
    (void)argument;
    if (ajit_serve_begin(executor, "stress"))
        exit(3);
    pthread_barrier_wait(&begun);
    while (ajit_serve(executor, &number) == AJIT_CALL)
        ajit_serve_called(executor, 0);
    left = ajit_serve_end(executor);
    return NULL;
}

static uint64_t submit(struct ajit_port *port, const void *operation, uint32_t bytes)
{
    alignas(16) char buffer[256];
    struct ajit_submission header = {.port = (uintptr_t)port, .count = 1, .bytes = bytes};
    header.number = atomic_fetch_add(&numbers, 1);
    header.timed = header.number % 2;
    memcpy(buffer, &header, sizeof header);
    memcpy(buffer + sizeof header, operation, bytes);
    while (ajit_submit((struct ajit_submission *)buffer) == AJIT_FULL)
        sched_yield();
    return header.number;
}

static uint64_t submit_simple(struct ajit_port *port, uint32_t opcode, uint64_t size)
{
    struct ajit_alloc operation = {{opcode, sizeof operation}, size};
    return submit(port, &operation, sizeof operation);
}

static struct ajit_resource *read_records(struct ajit_port *port, uint32_t count, int *open)
{
    struct ajit_resource *made = NULL;
    for (uint32_t i = 0; i < count; i++) {
        struct ajit_record *record = &port->records[i];
        if (record->code || (record->flags & ~AJIT_TIMED) != (AJIT_SETTLED | AJIT_RETIRED))
            failures++;
        if (record->value)
            made = (struct ajit_resource *)(uintptr_t)record->value;
        --*open;
    }
    return made;
}

static struct ajit_resource *finish(struct ajit_port *port, int *open, uint64_t wanted)
{
    struct ajit_resource *made = NULL;
    while (*open > 0) {
        port->wanted = wanted;
        port->hogged_ns = 0;
        uint32_t count = wanted ? ajit_port_wait(port) : ajit_port_drain(port);
        struct ajit_resource *found = read_records(port, count, open);
        made = found ? found : made;
        if (!count)
            sched_yield();
    }
    return made;
}

static void one_round(struct ajit_port *port, int round)
{
    int open = 1;
    struct ajit_resource *memory = finish(port, &open, submit_simple(port, AJIT_ALLOC, 4096));
    if (!memory) {
        failures++;
        return;
    }
    struct ajit_fill fill = {{AJIT_FILL, sizeof fill}, memory->pointer, 4096, 7};
    for (int i = 0; i < BURST; i++)
        submit(port, &fill, sizeof fill);
    submit_simple(port, AJIT_CALL, 0);
    ajit_post(executor, memory, ~(uint64_t)0); /* while the fills are in flight */
    uint64_t last = submit_simple(port, AJIT_MARK, 0);
    open = BURST + 2;
    finish(port, &open, round % 2 ? last : 0);
}

static void *work(void *argument)
{
    (void)argument;
    for (int round = 0; round < rounds; round++) {
        struct ajit_port *port = ajit_port_create(executor, 50000, 1000000);
        one_round(port, round);
        int open = 1;
        submit_simple(port, AJIT_CLOSE_PORT, 0);
        if (round % 3)
            finish(port, &open, 0);
        ajit_port_release(port); /* sometimes with a ticket on its way */
    }
    return NULL;
}

int main(int count, char **arguments)
{
    struct ajit_options options = {.capacity = 16, .spin_ns = 20000, .deadline_ns = 60000000000u,
                                   .stall_ns = 30000000000u, .memory_limit_bytes = 1 << 20};
    pthread_t server, workers[THREADS];
    if (count != 3)
        return 2;
    rounds = atoi(arguments[2]);
    executor = ajit_executor_create(arguments[1], &options);
    if (!executor)
        return 3;
    pthread_barrier_init(&begun, NULL, 2);
    pthread_create(&server, NULL, serve, NULL);
    pthread_barrier_wait(&begun);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&workers[i], NULL, work, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(workers[i], NULL);
    struct ajit_port *port = ajit_port_create(executor, 0, 0);
    submit_simple(port, AJIT_STOP, 0);
    ajit_port_release(port);
    pthread_join(server, NULL);
    uint64_t live = executor->counters.live_resources;
    ajit_executor_destroy(executor);
    printf("failures %d, left %d, live %d\n", (int)failures, left, (int)live);
    return failures || left || live;
}
