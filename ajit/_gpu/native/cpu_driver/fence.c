/* Fences: a thing that happens once, with its time, and that anybody may wait for.
 *
 * Shared by counting references, because an event may be destroyed or recorded again while streams
 * and threads still wait for its earlier record. A failed allocation returns NULL and changes
 * nothing.
 */
#include "driver.h"

#include <stdlib.h>

struct cpu_fence {
    _Atomic unsigned refs;
    _Atomic uint64_t time_ns; /* 0: has not happened */
    pthread_mutex_t mutex;
    pthread_cond_t happened;
};

cpu_fence *cpu_fence_new(void) {
    cpu_fence *fence = calloc(1, sizeof *fence);
    if (fence == NULL) return NULL;
    atomic_init(&fence->refs, 1);
    pthread_mutex_init(&fence->mutex, NULL);
    pthread_cond_init(&fence->happened, NULL);
    return fence;
}

cpu_fence *cpu_fence_share(cpu_fence *fence) {
    atomic_fetch_add(&fence->refs, 1);
    return fence;
}

void cpu_fence_drop(cpu_fence *fence) {
    if (fence == NULL || atomic_fetch_sub(&fence->refs, 1) != 1) return;
    pthread_cond_destroy(&fence->happened);
    pthread_mutex_destroy(&fence->mutex);
    free(fence);
}

void cpu_fence_signal(cpu_fence *fence) {
    pthread_mutex_lock(&fence->mutex);
    atomic_store(&fence->time_ns, cpu_now_ns());
    pthread_cond_broadcast(&fence->happened);
    pthread_mutex_unlock(&fence->mutex);
}

void cpu_fence_wait(cpu_fence *fence) {
    pthread_mutex_lock(&fence->mutex);
    while (atomic_load(&fence->time_ns) == 0) pthread_cond_wait(&fence->happened, &fence->mutex);
    pthread_mutex_unlock(&fence->mutex);
}

uint64_t cpu_fence_time(cpu_fence *fence) { return atomic_load(&fence->time_ns); }
