/* Grids: the blocks of a launch, spread over the stream's thread and a pool of helper threads.
 *
 * A free thread takes the next block. The stream's thread always takes part, so a launch makes
 * progress whatever the pool does, and a grid of one block costs no hand-over. After a fault no
 * more blocks are begun; those that run are finished.
 */
#include "driver.h"

#include <unistd.h>

/* A helper that runs blocks of 1024 waiting threads has 1024 stacks, two mappings each; Linux
 * allows a process 65530. */
enum { MAX_THREADS = 16, HELPER_STACK_BYTES = 256 << 10 };

typedef struct job {
    const cpu_grid *grid;
    uint64_t count;
    _Atomic uint64_t next;
    _Atomic int error;
    unsigned helpers; /* at work on it; guarded by the pool's mutex, as is the list */
    struct job *following;
} job;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER, left = PTHREAD_COND_INITIALIZER;
static pthread_once_t start_once = PTHREAD_ONCE_INIT;
static job *jobs;
static unsigned helper_count;

static void run_blocks(job *job) {
    while (atomic_load_explicit(&job->error, memory_order_relaxed) == CUDA_SUCCESS) {
        uint64_t index = atomic_fetch_add(&job->next, 1);
        if (index >= job->count) return;
        CUresult result = cpu_block_run(job->grid, index);
        int none = CUDA_SUCCESS;
        if (result != CUDA_SUCCESS) atomic_compare_exchange_strong(&job->error, &none, (int)result);
    }
}

static void unlist(job *job) {
    for (struct job **link = &jobs; *link != NULL; link = &(*link)->following)
        if (*link == job) {
            *link = job->following;
            return;
        }
}

static void *help(void *unused) {
    pthread_mutex_lock(&mutex);
    for (;;) {
        while (jobs == NULL) pthread_cond_wait(&work, &mutex);
        job *job = jobs;
        job->helpers++;
        pthread_mutex_unlock(&mutex);
        run_blocks(job);
        pthread_mutex_lock(&mutex);
        unlist(job); /* all its blocks are taken */
        if (--job->helpers == 0) pthread_cond_broadcast(&left);
    }
    return unused;
}

static void start_helpers(void) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned wanted = cores < 1 ? 1 : cores > MAX_THREADS ? MAX_THREADS : (unsigned)cores;
    wanted = (unsigned)cpu_setting("AJIT_CPU_THREADS", wanted, 1, 1024);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, HELPER_STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (pthread_t thread; helper_count + 1 < wanted; helper_count++)
        if (pthread_create(&thread, &attributes, help, NULL) != 0) break; /* fewer will do */
    pthread_attr_destroy(&attributes);
}

static void call_helpers(job *job) {
    pthread_mutex_lock(&mutex);
    job->following = jobs;
    jobs = job;
    uint64_t wanted = job->count - 1 < helper_count ? job->count - 1 : helper_count;
    for (uint64_t i = 0; i < wanted; i++) pthread_cond_signal(&work);
    pthread_mutex_unlock(&mutex);
}

static void dismiss_helpers(job *job) {
    pthread_mutex_lock(&mutex);
    unlist(job);
    while (job->helpers > 0) pthread_cond_wait(&left, &mutex);
    pthread_mutex_unlock(&mutex);
}

CUresult cpu_grid_run(const cpu_grid *grid) {
    job job = {.grid = grid};
    job.count = (uint64_t)grid->grid_dim[0] * grid->grid_dim[1] * grid->grid_dim[2];
    pthread_once(&start_once, start_helpers);
    bool shared = job.count > 1 && helper_count > 0;
    if (shared) call_helpers(&job);
    run_blocks(&job);
    if (shared) dismiss_helpers(&job);
    return (CUresult)atomic_load(&job.error);
}
