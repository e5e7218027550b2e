/* The contract between a kernel image and the CPU driver.
 *
 * An image is an ELF shared object, built by a host C++ compiler from CUDA C++ source and
 * kernel.hpp. It exports one C symbol, `ajit_cpu_module`, of type struct ajit_cpu_module. The
 * driver never calls anything else in it, and the image reaches the driver only through the table
 * of services in the block it is given, so neither side links the other.
 *
 * How a block runs: the driver fills a struct ajit_cpu_block and calls the kernel's `run` on a
 * fiber. `run` takes threads from `next_thread` until none is left and runs each to completion. A
 * thread that has to wait calls a service, which parks its fiber; the driver then calls `run` again
 * on another fiber, which goes on with the next thread. All fibers of a block share one OS thread,
 * so thread-local storage is block-local storage: that is where shared memory lives.
 *
 * Changing anything here means a new AJIT_CPU_ABI_VERSION; the driver refuses any other one.
 */
#ifndef AJIT_CPU_ABI_H
#define AJIT_CPU_ABI_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AJIT_CPU_ABI_VERSION 1u
#define AJIT_CPU_WARP_SIZE 32u
#define AJIT_CPU_MAX_THREADS 1024u
/* Bytes of dynamic shared memory a block may have: what a current data centre GPU offers. */
#define AJIT_CPU_MAX_SHARED_BYTES 232448u

/* What a lane asks of its warp. */
enum ajit_cpu_warp_op {
    AJIT_CPU_WARP_SYNC = 0,    /* meet; the result means nothing */
    AJIT_CPU_WARP_SHUFFLE = 1, /* result: the value of lane `source`, one's own if it is absent */
    AJIT_CPU_WARP_BALLOT = 2,  /* result: one bit for each lane whose value is not zero */
    AJIT_CPU_WARP_MATCH = 3,   /* result: one bit for each lane that has the same value */
    AJIT_CPU_WARP_ACTIVE = 4   /* result: the lanes of the warp that came to this point together */
};

/* What a block-wide barrier returns to each thread. */
enum ajit_cpu_barrier_op {
    AJIT_CPU_BARRIER_SYNC = 0,
    AJIT_CPU_BARRIER_COUNT = 1,
    AJIT_CPU_BARRIER_AND = 2,
    AJIT_CPU_BARRIER_OR = 3
};

struct ajit_cpu_block;

/* Services of the driver. Each may park the calling fiber; thread-local storage is then changed by
 * the other threads of the block, so the image sets its indices again after each call. */
struct ajit_cpu_services {
    uint32_t (*barrier)(struct ajit_cpu_block *block, uint32_t thread, uint32_t op,
                        uint32_t predicate);
    uint64_t (*warp)(struct ajit_cpu_block *block, uint32_t thread, uint32_t op, uint32_t mask,
                     uint64_t value, uint32_t source);
    void (*yield)(struct ajit_cpu_block *block, uint32_t thread);
    /* A thread returned from the kernel while others wait: they may be free to go on now. */
    void (*exited)(struct ajit_cpu_block *block, uint32_t thread);
    /* Ends the launch with a CUresult (assert, trap). Does not return. */
    void (*fault)(struct ajit_cpu_block *block, uint32_t error, const char *message);
};

struct ajit_cpu_block {
    const struct ajit_cpu_services *services;
    void *const *params; /* one pointer for each parameter of the kernel */
    uint32_t grid_dim[3];
    uint32_t block_dim[3];
    uint32_t block_idx[3];
    uint32_t dynamic_shared_bytes;
    uint32_t thread_count;
    uint32_t next_thread;    /* the first thread that has not started; `run` counts it up */
    uint32_t live_threads;   /* threads that have not returned; `run` counts it down */
    uint32_t parked_threads; /* threads that wait in a service */
    uint32_t live_lanes[AJIT_CPU_MAX_THREADS / AJIT_CPU_WARP_SIZE]; /* the same, one bit a thread */
};

struct ajit_cpu_param {
    uint32_t size;
    /* In the packed parameter buffer, by CUDA's rule: natural alignment, in order. */
    uint32_t offset;
};

struct ajit_cpu_kernel {
    const char *name; /* as the user wrote it, name expressions included; also its lowered name */
    void (*run)(struct ajit_cpu_block *block);
    const struct ajit_cpu_param *params;
    uint32_t param_count;
    uint32_t param_bytes; /* of the packed buffer */
};

struct ajit_cpu_module {
    uint32_t abi_version;
    uint32_t kernel_count;
    const struct ajit_cpu_kernel *kernels;
};

#ifdef __cplusplus
}
#endif
#endif
