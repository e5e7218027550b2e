/* The ring of submissions, and how the CUDA thread waits for them.
 *
 * Many producers, one consumer, bounded (D. Vyukov's queue): a slot's `turn` says whose it is. At
 * position p a slot is free for the producer when turn == p and full for the consumer when
 * turn == p + 1; the consumer sets it to p + capacity, which is the next round's p. Order is the
 * order in which producers take positions, so what one thread pushes first is performed first.
 */
#include "executor.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

/* How often a spinning thread looks at the ring before it offers its core to others. Arbitrary: a
 * fraction of a microsecond. */
enum { LOOKS_PER_YIELD = 4 };

uint64_t ajit_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool ajit_ring_push(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    uint64_t mask = executor->options.capacity - 1;
    uint64_t position = atomic_load_explicit(&executor->tail, memory_order_relaxed);
    for (;;) {
        struct ajit_slot *slot = &executor->slots[position & mask];
        uint64_t turn = atomic_load_explicit(&slot->turn, memory_order_acquire);
        if (turn == position) {
            if (atomic_compare_exchange_weak(&executor->tail, &position, position + 1)) {
                slot->ticket = ticket;
                atomic_store(&slot->turn, position + 1);
                return true;
            }
        } else if ((int64_t)(turn - position) < 0) {
            return false; /* a whole round behind: full */
        } else {
            position = atomic_load_explicit(&executor->tail, memory_order_relaxed);
        }
    }
}

static struct ajit_slot *next_slot(struct ajit_executor *executor) {
    uint64_t position = atomic_load_explicit(&executor->head, memory_order_relaxed);
    struct ajit_slot *slot = &executor->slots[position & (executor->options.capacity - 1)];
    return atomic_load(&slot->turn) == position + 1 ? slot : NULL;
}

struct ajit_ticket *ajit_ring_pop(struct ajit_executor *executor) {
    struct ajit_slot *slot = next_slot(executor);
    if (!slot) return NULL;
    struct ajit_ticket *ticket = slot->ticket;
    uint64_t position = atomic_fetch_add(&executor->head, 1);
    atomic_store_explicit(&slot->turn, position + executor->options.capacity, memory_order_release);
    return ticket;
}

/* Producers: after a push or a post. Costs one load while the CUDA thread is awake. */
void ajit_ring_wake(struct ajit_executor *executor) {
    /* Pairs with the fence in ajit_ring_wait: either we see it asleep, or it sees our push. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load(&executor->asleep) && atomic_exchange(&executor->asleep, 0))
        syscall(SYS_futex, &executor->asleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static bool something_to_do(struct ajit_executor *executor) {
    return next_slot(executor) || atomic_load(&executor->posts) || atomic_load(&executor->timed);
}

static bool spin(struct ajit_executor *executor) {
    uint64_t until = ajit_now_ns() + executor->options.spin_ns;
    while (ajit_now_ns() < until) {
        for (int look = 0; look < LOOKS_PER_YIELD; look++) {
            if (something_to_do(executor)) return true;
            PAUSE();
        }
        /* The driver's own threads may want this core, to finish what was just handed to them: on
         * two cores a launch took half as long with this line (the CPU driver). Costs nothing when
         * no thread waits for the core. */
        sched_yield();
    }
    return false;
}

/* Waits until there is a submission, a post or a ticket to be timed: spins, then sleeps for at most
 * `sleep_ns` (0: with no limit). Returns false when the time ran out. */
bool ajit_ring_wait(struct ajit_executor *executor, uint64_t sleep_ns) {
    if (executor->options.spin_ns && spin(executor)) return true;
    atomic_store(&executor->asleep, 1);
    atomic_thread_fence(memory_order_seq_cst);
    if (something_to_do(executor)) {
        atomic_store(&executor->asleep, 0);
        return true;
    }
    atomic_fetch_add_explicit(&executor->counters.sleeps, 1, memory_order_relaxed);
    struct timespec limit = {(time_t)(sleep_ns / 1000000000u), (long)(sleep_ns % 1000000000u)};
    long result = syscall(SYS_futex, &executor->asleep, FUTEX_WAIT_PRIVATE, 1,
                          sleep_ns ? &limit : NULL, NULL, 0);
    /* EINTR and EAGAIN (woken before it slept) are wake-ups like any other: the caller looks. */
    bool timed_out = result == -1 && errno == ETIMEDOUT;
    atomic_store(&executor->asleep, 0);
    return !timed_out;
}

void ajit_queue_push(struct ajit_queue *queue, struct ajit_ticket *ticket) {
    ticket->next = NULL;
    if (queue->first) queue->last->next = ticket;
    else queue->first = ticket;
    queue->last = ticket;
}

void ajit_queue_push_front(struct ajit_queue *queue, struct ajit_ticket *ticket) {
    ticket->next = queue->first;
    if (!queue->first) queue->last = ticket;
    queue->first = ticket;
}

struct ajit_ticket *ajit_queue_pop(struct ajit_queue *queue) {
    struct ajit_ticket *ticket = queue->first;
    if (ticket) queue->first = ticket->next;
    return ticket;
}
