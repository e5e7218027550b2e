/* The watchdog: a thread that reports when the CUDA thread is stuck in one operation, even if
 * another thread holds the GIL.
 *
 * It looks at the heartbeat, writes one line, and sends a signal to itself, whose handler is that
 * of Python's faulthandler (ajit/_gpu/health.py): that prints the stacks of all threads without the
 * GIL and without a lock. To itself, so that no other thread's system call is interrupted.
 */
#include "executor.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { NS = 1000000000 };
/* How often it looks: a quarter of the time that counts as stuck, within these. Arbitrary. */
enum { SHORTEST_NS = 5 * 1000 * 1000, LONGEST_NS = NS };

static uint64_t interval_ns(const struct ajit_executor *executor) {
    uint64_t interval = executor->options.stall_ns / 4;
    return interval < SHORTEST_NS ? SHORTEST_NS : interval > LONGEST_NS ? LONGEST_NS : interval;
}

/* Waits one interval; returns false when the thread is to end. Called with the lock. */
static bool rest(struct ajit_executor *executor) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + interval_ns(executor);
    until.tv_sec += (time_t)(ns / NS);
    until.tv_nsec = (long)(ns % NS);
    while (!executor->watchdog_ends &&
           !pthread_cond_timedwait(&executor->watchdog_wakes, &executor->watchdog_lock, &until))
        continue;
    return !executor->watchdog_ends;
}

static const char *text_of(uint64_t opcode) {
    switch (opcode) {
#define OPCODE(name, number, text) \
    case number: return text;
#include "../table.def"
    default: return "unknown";
    }
}

static void speak_up(struct ajit_executor *executor, uint64_t entered_ns) {
    struct ajit_heartbeat *beat = executor->heartbeat;
    atomic_fetch_add_explicit(&executor->counters.stalls, 1, memory_order_relaxed);
    /* A failure to write is no reason to fail. */
    dprintf(STDERR_FILENO,
            "ajit: the CUDA thread of device %d has been in '%s' of ticket %llu for %.1f s\n",
            executor->options.ordinal, text_of(atomic_load(&beat->operation)),
            (unsigned long long)atomic_load(&beat->number),
            (double)(ajit_now_ns() - entered_ns) / NS);
    if (executor->options.dump_signal)
        syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), executor->options.dump_signal);
}

static void *watch(void *argument) {
    struct ajit_executor *executor = argument;
    uint64_t said_of = 0; /* one report for each operation that is stuck */
    sigset_t others;
    sigfillset(&others); /* the process's signals are for its own threads */
    if (executor->options.dump_signal) sigdelset(&others, executor->options.dump_signal);
    pthread_sigmask(SIG_SETMASK, &others, NULL);
    pthread_setname_np(pthread_self(), "ajit-watchdog");
    pthread_mutex_lock(&executor->watchdog_lock);
    while (rest(executor)) {
        uint64_t entered =
            atomic_load_explicit(&executor->heartbeat->entered_ns, memory_order_acquire);
        uint64_t now = ajit_now_ns();
        if (!entered || entered == said_of || now - entered < executor->options.stall_ns) continue;
        said_of = entered;
        speak_up(executor, entered);
    }
    pthread_mutex_unlock(&executor->watchdog_lock);
    return NULL;
}

/* Without a thread for it there is no watchdog, and nothing else is different. */
void ajit_watchdog_start(struct ajit_executor *executor) {
    pthread_condattr_t monotonic;
    if (!executor->options.stall_ns) return;
    pthread_mutex_init(&executor->watchdog_lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&executor->watchdog_wakes, &monotonic);
    pthread_condattr_destroy(&monotonic);
    executor->watchdog_runs = !pthread_create(&executor->watchdog, NULL, watch, executor);
}

void ajit_watchdog_end(struct ajit_executor *executor) {
    if (!executor->watchdog_runs) return;
    pthread_mutex_lock(&executor->watchdog_lock);
    executor->watchdog_ends = true;
    pthread_cond_signal(&executor->watchdog_wakes);
    pthread_mutex_unlock(&executor->watchdog_lock);
    pthread_join(executor->watchdog, NULL);
    executor->watchdog_runs = false;
    pthread_cond_destroy(&executor->watchdog_wakes);
    pthread_mutex_destroy(&executor->watchdog_lock);
}
