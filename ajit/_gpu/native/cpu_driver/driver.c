/* The gate of the CPU driver: what is checked before any call does anything.
 *
 * The order of the checks is NVIDIA's, as far as it can be seen from outside: a forked child and an
 * uninitialised library know nothing (3); inside a host function nothing is permitted (800); then
 * the context (201), then what the device and captures forbid. Injected faults come after the
 * checks that every program must pass, and before anything was done.
 */
#include "driver.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

static pthread_mutex_t driver_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static _Atomic bool initialized;
static _Atomic bool forked;
static _Thread_local bool in_host_function;

/* Threads, and with them every stream, do not survive a fork: the child has no device. */
static void after_fork_in_child(void) { atomic_store(&forked, true); }

static void watch_forks(void) { pthread_atfork(NULL, NULL, after_fork_in_child); }

CUresult cuInit(unsigned int Flags) {
    cpu_check_rules(__func__, CPU_EARLY);
    if (atomic_load(&forked)) return CUDA_ERROR_NOT_INITIALIZED;
    if (in_host_function) return CUDA_ERROR_NOT_PERMITTED;
    if (Flags != 0) return CUDA_ERROR_INVALID_VALUE;
    CUresult injected = cpu_injected(__func__);
    if (injected != CUDA_SUCCESS) return injected;
    pthread_once(&fork_once, watch_forks);
    atomic_store(&initialized, true);
    return CUDA_SUCCESS;
}

static CUresult check_state(unsigned needs) {
    if (needs & CPU_CONTEXT) {
        CUcontext context = cpu_current();
        if (context == NULL) return CUDA_ERROR_INVALID_CONTEXT;
        if (!context->active) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
        if ((needs & CPU_ALIVE) && cpu_lost(context) != CUDA_SUCCESS) return cpu_lost(context);
    }
    return CUDA_SUCCESS;
}

CUresult cpu_enter(const char *function, unsigned needs) {
    cpu_check_rules(function, needs);
    if (atomic_load(&forked)) return CUDA_ERROR_NOT_INITIALIZED;
    if (!(needs & CPU_EARLY) && !atomic_load(&initialized)) return CUDA_ERROR_NOT_INITIALIZED;
    if (in_host_function && !(needs & CPU_EARLY)) return CUDA_ERROR_NOT_PERMITTED;
    CUresult result = check_state(needs);
    if (result == CUDA_SUCCESS) result = cpu_injected(function);
    if (result != CUDA_SUCCESS || !(needs & (CPU_LOCKED | CPU_UNSAFE))) return result;
    cpu_lock();
    result = check_state(needs); /* another thread may have reset the device meanwhile */
    if (result == CUDA_SUCCESS && (needs & CPU_UNSAFE) && cpu_capture_forbids())
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (result != CUDA_SUCCESS || !(needs & CPU_LOCKED)) cpu_unlock();
    return result;
}

void cpu_leave(unsigned needs) {
    if (needs & CPU_LOCKED) cpu_unlock();
}

void cpu_lock(void) { pthread_mutex_lock(&driver_lock); }

void cpu_unlock(void) { pthread_mutex_unlock(&driver_lock); }

void cpu_set_in_host_function(bool inside) { in_host_function = inside; }

uint64_t cpu_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t cpu_setting(const char *name, uint64_t otherwise, uint64_t least, uint64_t most) {
    const char *text = getenv(name);
    if (text == NULL || *text == '\0') return otherwise;
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || value < least || value > most) return otherwise;
    return value;
}
