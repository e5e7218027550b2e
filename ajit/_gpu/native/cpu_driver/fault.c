/* Faults and delays on demand, for tests: the CPU driver's own exported functions.
 *
 * An injection names an exported function ("cuMemAlloc_v2"), or a step of the device:
 * "device:launch", "device:copy" or "device:host". The next `count` times it is reached, it takes
 * `delay_us` longer and fails with `error` (0: only the delay). An error of a device step is
 * sticky, as a device's error is. The delay of a call is spent before the driver lock is taken: it
 * delays only that call. A delay of `AJIT_CPU_UNTIL_RELEASED` ends when the test says
 * so.
 */
#include "driver.h"
#include "fault.h"

#include <errno.h>
#include <string.h>
#include <time.h>

enum { MAX_INJECTIONS = 32, NAME_BYTES = 64 }; /* pretty arbitrary; tests use two or three */

typedef struct injection {
    char function[NAME_BYTES];
    CUresult error;
    unsigned count;
    unsigned delay_us;
} injection;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static injection injections[MAX_INJECTIONS];
static _Atomic unsigned active; /* so that a call without injections costs one load */
static _Atomic unsigned lost_callbacks;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static _Atomic bool held; /* written under the mutex */
static unsigned releases; /* how often stopped calls were released; under the mutex */

static injection *find(const char *function) {
    for (int i = 0; i < MAX_INJECTIONS; i++)
        if (injections[i].count > 0 && strcmp(injections[i].function, function) == 0)
            return &injections[i];
    return NULL;
}

static injection *find_free(void) {
    for (int i = 0; i < MAX_INJECTIONS; i++)
        if (injections[i].count == 0) return &injections[i];
    return NULL;
}

static void sleep_us(unsigned microseconds) {
    struct timespec rest = {microseconds / 1000000u, (long)(microseconds % 1000000u) * 1000};
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR) {
    }
}

static void sleep_until_released(unsigned releases_before) {
    pthread_mutex_lock(&mutex);
    while (releases == releases_before) pthread_cond_wait(&released, &mutex);
    pthread_mutex_unlock(&mutex);
}

CUresult cpu_injected(const char *function) {
    if (atomic_load_explicit(&active, memory_order_relaxed) == 0) return CUDA_SUCCESS;
    CUresult error = CUDA_SUCCESS;
    unsigned delay_us = 0;
    pthread_mutex_lock(&mutex);
    unsigned releases_before = releases;
    injection *found = find(function);
    if (found != NULL) {
        error = found->error;
        delay_us = found->delay_us;
        if (--found->count == 0) atomic_fetch_sub(&active, 1);
    }
    pthread_mutex_unlock(&mutex);
    if (delay_us == AJIT_CPU_UNTIL_RELEASED) sleep_until_released(releases_before);
    else if (delay_us > 0) sleep_us(delay_us);
    return error;
}

bool cpu_callback_is_lost(void) {
    unsigned left = atomic_load(&lost_callbacks);
    while (left > 0)
        if (atomic_compare_exchange_weak(&lost_callbacks, &left, left - 1)) return true;
    return false;
}

void cpu_wait_while_held(void) {
    if (!atomic_load(&held)) return;
    pthread_mutex_lock(&mutex);
    while (atomic_load(&held)) pthread_cond_wait(&released, &mutex);
    pthread_mutex_unlock(&mutex);
}

int ajit_cpu_inject(const char *function, int error, unsigned count, unsigned delay_us) {
    if (function == NULL || strlen(function) >= NAME_BYTES || error < 0)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&mutex);
    injection *slot = find(function);
    bool fresh = slot == NULL;
    if (fresh) slot = find_free();
    if (slot != NULL) {
        if (fresh && count > 0) atomic_fetch_add(&active, 1);
        if (!fresh && count == 0) atomic_fetch_sub(&active, 1);
        strcpy(slot->function, function);
        slot->error = (CUresult)error;
        slot->count = count;
        slot->delay_us = delay_us;
    }
    pthread_mutex_unlock(&mutex);
    return slot != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

void ajit_cpu_set_lost_callbacks(unsigned count) { atomic_store(&lost_callbacks, count); }

void ajit_cpu_hold_streams(int hold) {
    pthread_mutex_lock(&mutex);
    atomic_store(&held, hold != 0);
    pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&mutex);
}

void ajit_cpu_release_calls(void) {
    pthread_mutex_lock(&mutex);
    releases++;
    pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&mutex);
}

void ajit_cpu_poison(int error) {
    for (int device = 0; device < CPU_MAX_DEVICES; device++)
        cpu_lose(cpu_context(device), (CUresult)error);
}

void ajit_cpu_reset(void) {
    pthread_mutex_lock(&mutex);
    memset(injections, 0, sizeof injections);
    atomic_store(&active, 0);
    pthread_mutex_unlock(&mutex);
    ajit_cpu_set_lost_callbacks(0);
    for (int device = 0; device < CPU_MAX_DEVICES; device++)
        atomic_store(&cpu_context(device)->lost, CUDA_SUCCESS);
    ajit_cpu_hold_streams(0);
    ajit_cpu_release_calls();
}
