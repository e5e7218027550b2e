/* What the stress programs share: a thread that serves, workers that submit and wait, and an end at
 * which nothing may be left. Usage of each: PROGRAM DRIVER ROUNDS. Exits 0 if every ticket was
 * settled and retired once. No kernels: the fibers that run them are not known to the sanitizers.
 */
#ifndef EXECUTOR_STRESS_H
#define EXECUTOR_STRESS_H

#include "executor/executor.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 3 };

static struct ajit_executor *executor;
static int rounds;
static _Atomic uint64_t numbers = 1;
static _Atomic int failures, steps;

static pthread_barrier_t begun;
static int left = -1;

static void *serve(void *argument) {
    uint64_t number;
    (void)argument;
    if (ajit_serve_begin(executor, "stress")) exit(3);
    pthread_barrier_wait(&begun);
    while (ajit_serve(executor, &number) == AJIT_CALL) ajit_serve_called(executor, 0);
    left = ajit_serve_end(executor);
    return NULL;
}

/* Several operations, in a stream of ajit's own or, with NULL, the executor's. */
static uint64_t submit_all(struct ajit_port *port, const struct ajit_resource *stream,
                           const void *operations, uint32_t count, uint32_t bytes) {
    alignas(16) char buffer[2048];
    struct ajit_submission header = {.port = (uintptr_t)port, .count = count, .bytes = bytes};
    header.number = atomic_fetch_add(&numbers, 1);
    if (stream) {
        header.stream = stream->pointer;
        header.lane = stream->size;
    }
    if (header.number % 2) header.lane += AJIT_TIME;
    memcpy(buffer, &header, sizeof header);
    memcpy(buffer + sizeof header, operations, bytes);
    while (ajit_submit((struct ajit_submission *)buffer) == AJIT_FULL) sched_yield();
    return header.number;
}

static uint64_t submit(struct ajit_port *port, const void *operation, uint32_t bytes) {
    return submit_all(port, NULL, operation, 1, bytes);
}

static uint64_t submit_simple(struct ajit_port *port, uint32_t opcode, uint64_t size) {
    struct ajit_alloc operation = {{opcode, sizeof operation}, size};
    return submit(port, &operation, sizeof operation);
}

static struct ajit_resource *read_records(struct ajit_port *port, uint32_t count, int *open) {
    struct ajit_resource *made = NULL;
    for (uint32_t i = 0; i < count; i++) {
        struct ajit_record *record = &port->records[i];
        if (record->flags & AJIT_STEPPED) {
            atomic_fetch_add(&steps, 1);
            continue;
        }
        if (record->code || (record->flags & ~AJIT_TIMED) != (AJIT_SETTLED | AJIT_RETIRED))
            failures++;
        if (record->value) made = (struct ajit_resource *)(uintptr_t)record->value;
        --*open;
    }
    return made;
}

static struct ajit_resource *finish(struct ajit_port *port, int *open, uint64_t wanted) {
    struct ajit_resource *made = NULL;
    while (*open > 0) {
        port->wanted = wanted;
        port->hogged_ns = 0;
        uint32_t count = wanted ? ajit_port_wait(port) : ajit_port_drain(port);
        struct ajit_resource *found = read_records(port, count, open);
        made = found ? found : made;
        if (!count) sched_yield();
    }
    return made;
}

/* Workers have left with work in flight: an executor that ends before it stays for ever. */
static void settle_down(struct ajit_port *port) {
    int open = 1;
    submit_simple(port, AJIT_CALL, 0); /* everything submitted so far is in flight, or done */
    finish(port, &open, 0);
    while (atomic_load(&executor->counters.in_flight)) sched_yield();
}

/* Runs `work` in every worker. */
static int stress(int count, char **arguments, void *(*work)(void *)) {
    struct ajit_options options = {.capacity = 16,
                                   .spin_ns = 20000,
                                   .deadline_ns = 60000000000u,
                                   .stall_ns = 30000000000u,
                                   .memory_limit_bytes = 1 << 20};
    pthread_t server, workers[THREADS];
    if (count != 3) return 2;
    rounds = atoi(arguments[2]);
    executor = ajit_executor_create(arguments[1], &options);
    if (!executor) return 3;
    pthread_barrier_init(&begun, NULL, 2);
    pthread_create(&server, NULL, serve, NULL);
    pthread_barrier_wait(&begun);
    for (int i = 0; i < THREADS; i++) pthread_create(&workers[i], NULL, work, NULL);
    for (int i = 0; i < THREADS; i++) pthread_join(workers[i], NULL);
    struct ajit_port *port = ajit_port_create(executor, 0, 0);
    settle_down(port);
    struct ajit_resource *late[2];
    for (int i = 0; i < 2; i++) {
        int open = 1;
        submit_simple(port, AJIT_ALLOC, 64);
        late[i] = finish(port, &open, 0);
    }
    submit_simple(port, AJIT_STOP, 0);
    ajit_port_release(port);
    pthread_join(server, NULL);
    uint64_t live = executor->counters.live_resources;
    /* Finalizers run in any order: what refers to the executor may go after it. */
    ajit_executor_destroy(executor);
    for (int i = 0; i < 2; i++) ajit_post(executor, late[i], ~(uint64_t)0);
    printf("failures %d, left %d, live %d\n", (int)failures, left, (int)live);
    return failures || left || live;
}

#endif
