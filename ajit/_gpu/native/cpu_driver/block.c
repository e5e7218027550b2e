/* Blocks: the threads of one block as fibers on one OS thread, and what they wait for.
 *
 * Only a thread that waits gives up its fiber; the next thread then starts on another one. When
 * nothing can go on, first the lanes that asked who is active are answered (they are as converged
 * as they will ever be), and if there are none, the block is deadlocked: the launch fails instead
 * of hanging.
 *
 * A barrier is complete when every thread that has not returned is there; so threads that returned
 * count as arrived, as on a GPU. A warp operation is complete when every lane of its mask that has
 * not returned asks for the same operation with the same mask.
 */
#include "driver.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NOBODY = UINT32_MAX };

typedef struct lane {
    void *fiber;      /* where to go on */
    cpu_stack *stack; /* of that fiber; NULL while it runs */
    uint64_t value, result;
    uint32_t op, mask, source;
    uint32_t following; /* in the queue it waits in */
} lane;

typedef struct queue { uint32_t head, tail; } queue;

typedef struct worker {
    struct ajit_cpu_block block; /* first: services get a pointer to it */
    const struct ajit_cpu_kernel *kernel;
    void *home;       /* the OS thread's own stack */
    cpu_stack *stack; /* of the fiber that runs */
    CUresult error;
    queue ready, at_barrier;
    uint32_t arrived, votes;           /* at the barrier that is being waited for */
    uint32_t last_arrived, last_votes; /* at the one that was completed last */
    uint32_t waiting[AJIT_CPU_MAX_THREADS / AJIT_CPU_WARP_SIZE]; /* lanes in warp operations */
    lane lanes[AJIT_CPU_MAX_THREADS];
} worker;

/* ---- queues and switching ---- */

static void push(worker *worker, queue *queue, uint32_t thread) {
    worker->lanes[thread].following = NOBODY;
    if (queue->head == NOBODY) queue->head = thread;
    else worker->lanes[queue->tail].following = thread;
    queue->tail = thread;
}

static uint32_t pop(worker *worker, queue *queue) {
    uint32_t thread = queue->head;
    if (thread != NOBODY) queue->head = worker->lanes[thread].following;
    return thread;
}

static void run_fiber(void *argument);
static bool answer_active(worker *worker);

static void *next_start(worker *worker) {
    cpu_stack *stack = cpu_stack_take();
    if (stack == NULL) {
        worker->error = CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
        return worker->home;
    }
    worker->stack = stack;
    return cpu_fiber_new(stack, run_fiber, worker);
}

/* Where this OS thread goes on, now that a fiber waits or has ended. */
static void *choose(worker *worker) {
    do {
        uint32_t thread = pop(worker, &worker->ready);
        if (thread != NOBODY) return worker->lanes[thread].fiber;
        if (worker->block.next_thread < worker->block.thread_count) return next_start(worker);
    } while (answer_active(worker));
    if (worker->block.parked_threads > 0) worker->error = CUDA_ERROR_LAUNCH_FAILED; /* deadlock */
    return worker->home;
}

/* Waits until another thread makes `thread` ready and its turn comes. */
static void park(worker *worker, uint32_t thread, void *(*where)(struct worker *)) {
    lane *lane = &worker->lanes[thread];
    lane->stack = worker->stack; /* before `where`, which may start another fiber */
    worker->block.parked_threads++;
    cpu_fiber_switch(&lane->fiber, where(worker));
    worker->block.parked_threads--;
    worker->stack = lane->stack;
    lane->stack = NULL;
}

static void leave_fiber(void *target) {
    void *never;
    cpu_fiber_switch(&never, target);
    abort(); /* no thread has this context */
}

static void run_fiber(void *argument) {
    worker *worker = argument;
    worker->kernel->run(&worker->block);
    cpu_stack_give(worker->stack); /* not taken before the switch: no thread is left to start */
    leave_fiber(choose(worker));
}

/* ---- the block's barrier ---- */

static void complete_barrier(worker *worker) {
    worker->last_arrived = worker->arrived;
    worker->last_votes = worker->votes;
    worker->arrived = worker->votes = 0;
    uint32_t first = worker->at_barrier.head;
    if (first == NOBODY) return;
    if (worker->ready.head == NOBODY) worker->ready.head = first;
    else worker->lanes[worker->ready.tail].following = first;
    worker->ready.tail = worker->at_barrier.tail;
    worker->at_barrier.head = NOBODY;
}

static uint32_t barrier(struct ajit_cpu_block *block, uint32_t thread, uint32_t op,
                        uint32_t predicate) {
    worker *self = (worker *)block;
    self->arrived++;
    self->votes += predicate != 0;
    if (self->arrived == block->live_threads) {
        complete_barrier(self);
    } else {
        push(self, &self->at_barrier, thread);
        park(self, thread, choose);
    }
    /* No later barrier can have completed: this thread was not at it. */
    if (op == AJIT_CPU_BARRIER_AND) return self->last_votes == self->last_arrived;
    if (op == AJIT_CPU_BARRIER_OR) return self->last_votes > 0;
    return self->last_votes;
}

/* ---- warp operations ---- */

static uint64_t warp_result(const lane *lanes, uint32_t members, uint32_t self) {
    const lane *asking = &lanes[self];
    uint64_t bits = 0;
    if (asking->op == AJIT_CPU_WARP_SHUFFLE) {
        bool there = asking->source < AJIT_CPU_WARP_SIZE && (members >> asking->source & 1);
        return there ? lanes[asking->source].value : asking->value;
    }
    for (uint32_t rest = members; rest != 0; rest &= rest - 1) {
        uint32_t other = (uint32_t)__builtin_ctz(rest);
        bool set = asking->op == AJIT_CPU_WARP_MATCH ? lanes[other].value == asking->value
                                                     : lanes[other].value != 0;
        bits |= (uint64_t)set << other;
    }
    return bits;
}

/* Completes the operation that `thread` asks for, if all others are there too; they become
 * ready. */
static bool complete_warp(worker *worker, uint32_t thread) {
    uint32_t warp = thread / AJIT_CPU_WARP_SIZE, own = thread % AJIT_CPU_WARP_SIZE;
    lane *lanes = &worker->lanes[warp * AJIT_CPU_WARP_SIZE];
    uint32_t op = lanes[own].op, mask = lanes[own].mask;
    uint32_t members = mask & worker->block.live_lanes[warp];
    if (op == AJIT_CPU_WARP_ACTIVE || (worker->waiting[warp] & members) != members) return false;
    for (uint32_t rest = members; rest != 0; rest &= rest - 1) {
        const lane *other = &lanes[__builtin_ctz(rest)];
        if (other->op != op || other->mask != mask) return false;
    }
    uint64_t ballot = op == AJIT_CPU_WARP_BALLOT ? warp_result(lanes, members, own) : 0;
    for (uint32_t rest = members; rest != 0; rest &= rest - 1) {
        uint32_t other = (uint32_t)__builtin_ctz(rest);
        lanes[other].result =
            op == AJIT_CPU_WARP_BALLOT ? ballot : warp_result(lanes, members, other);
        if (lanes[other].stack != NULL)
            push(worker, &worker->ready, warp * AJIT_CPU_WARP_SIZE + other);
    }
    worker->waiting[warp] &= ~members;
    return true;
}

static bool answer_active_warp(worker *worker, uint32_t warp) {
    uint32_t active = 0, first = warp * AJIT_CPU_WARP_SIZE;
    for (uint32_t rest = worker->waiting[warp]; rest != 0; rest &= rest - 1)
        if (worker->lanes[first + (uint32_t)__builtin_ctz(rest)].op == AJIT_CPU_WARP_ACTIVE)
            active |= rest & -rest;
    for (uint32_t rest = active; rest != 0; rest &= rest - 1) {
        uint32_t thread = first + (uint32_t)__builtin_ctz(rest);
        worker->lanes[thread].result = active;
        push(worker, &worker->ready, thread);
    }
    worker->waiting[warp] &= ~active;
    return active != 0;
}

static bool answer_active(worker *worker) {
    bool answered = false;
    uint32_t warps = (worker->block.thread_count + AJIT_CPU_WARP_SIZE - 1) / AJIT_CPU_WARP_SIZE;
    for (uint32_t warp = 0; warp < warps; warp++)
        if (worker->waiting[warp] != 0) answered |= answer_active_warp(worker, warp);
    return answered;
}

static void fault(struct ajit_cpu_block *block, uint32_t error, const char *message);

static uint64_t warp(struct ajit_cpu_block *block, uint32_t thread, uint32_t op, uint32_t mask,
                     uint64_t value, uint32_t source) {
    worker *self = (worker *)block;
    lane *lane = &self->lanes[thread];
    uint32_t bit = 1u << thread % AJIT_CPU_WARP_SIZE;
    if (op != AJIT_CPU_WARP_ACTIVE && !(mask & bit))
        fault(block, CUDA_ERROR_LAUNCH_FAILED,
              "a lane is not in the mask of its own warp operation");
    lane->op = op;
    lane->mask = mask;
    lane->value = value;
    lane->source = source;
    self->waiting[thread / AJIT_CPU_WARP_SIZE] |= bit;
    if (!complete_warp(self, thread)) park(self, thread, choose);
    return lane->result;
}

/* ---- the other services ---- */

/* Lets all other threads of the block go first; if there are none, other blocks' OS threads. */
static void yield(struct ajit_cpu_block *block, uint32_t thread) {
    worker *self = (worker *)block;
    bool more = block->next_thread < block->thread_count;
    if (!more && self->ready.head == NOBODY) {
        sched_yield();
        return;
    }
    push(self, &self->ready, thread);
    park(self, thread, more ? next_start : choose);
}

/* Called while others wait: the thread that returned may have been the last one they waited for. */
static void exited(struct ajit_cpu_block *block, uint32_t thread) {
    worker *self = (worker *)block;
    uint32_t warp_index = thread / AJIT_CPU_WARP_SIZE, first = warp_index * AJIT_CPU_WARP_SIZE;
    if (self->arrived > 0 && self->arrived == block->live_threads) complete_barrier(self);
    for (uint32_t rest = self->waiting[warp_index]; rest != 0; rest &= rest - 1) {
        uint32_t own = (uint32_t)__builtin_ctz(rest);
        if (self->waiting[warp_index] >> own & 1) complete_warp(self, first + own);
    }
}

static void fault(struct ajit_cpu_block *block, uint32_t error, const char *message) {
    worker *self = (worker *)block;
    if (message != NULL)
        fprintf(stderr, "ajit CPU driver: block (%u,%u,%u) of kernel %s: %s\n", block->block_idx[0],
                block->block_idx[1], block->block_idx[2], self->kernel->name, message);
    self->error = (CUresult)error;
    cpu_stack_give(self->stack);
    leave_fiber(self->home);
}

/* ---- one block ---- */

static const struct ajit_cpu_services services = {barrier, warp, yield, exited, fault};

static pthread_key_t key;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

static void make_key(void) { pthread_key_create(&key, free); }

static worker *own_worker(void) {
    pthread_once(&key_once, make_key);
    worker *own = pthread_getspecific(key);
    if (own != NULL) return own;
    own = calloc(1, sizeof *own);
    if (own != NULL) pthread_setspecific(key, own);
    return own;
}

static void set_up(worker *worker, const cpu_grid *grid, uint64_t index) {
    struct ajit_cpu_block *block = &worker->block;
    block->services = &services;
    block->params = grid->params;
    memcpy(block->grid_dim, grid->grid_dim, sizeof block->grid_dim);
    memcpy(block->block_dim, grid->block_dim, sizeof block->block_dim);
    block->block_idx[0] = (uint32_t)(index % grid->grid_dim[0]);
    block->block_idx[1] = (uint32_t)(index / grid->grid_dim[0] % grid->grid_dim[1]);
    block->block_idx[2] = (uint32_t)(index / grid->grid_dim[0] / grid->grid_dim[1]);
    block->dynamic_shared_bytes = grid->shared_bytes;
    block->thread_count = grid->block_dim[0] * grid->block_dim[1] * grid->block_dim[2];
    block->next_thread = block->parked_threads = 0;
    block->live_threads = block->thread_count;
    memset(block->live_lanes, 0, sizeof block->live_lanes);
    for (uint32_t first = 0; first < block->thread_count; first += AJIT_CPU_WARP_SIZE) {
        uint32_t rest = block->thread_count - first;
        block->live_lanes[first / AJIT_CPU_WARP_SIZE] = rest < 32 ? (1u << rest) - 1 : UINT32_MAX;
    }
    worker->kernel = grid->kernel;
    worker->error = CUDA_SUCCESS;
    worker->ready.head = worker->at_barrier.head = NOBODY;
    worker->arrived = worker->votes = 0;
    memset(worker->waiting, 0, sizeof worker->waiting);
}

/* After a fault: the stacks of threads that will never go on. */
static void collect_stacks(worker *worker) {
    for (uint32_t thread = 0; thread < worker->block.thread_count; thread++) {
        lane *lane = &worker->lanes[thread];
        if (lane->stack != NULL) cpu_stack_give(lane->stack);
        lane->stack = NULL;
    }
}

CUresult cpu_block_run(const cpu_grid *grid, uint64_t index) {
    worker *worker = own_worker();
    if (worker == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    set_up(worker, grid, index);
    void *target = next_start(worker);
    if (worker->error == CUDA_SUCCESS) cpu_fiber_switch(&worker->home, target);
    if (worker->error != CUDA_SUCCESS) collect_stacks(worker);
    return worker->error;
}
