/* Inside of the CPU driver: its objects, who owns them, and which lock guards what.
 *
 * Locks, in the order in which they may be taken:
 *   1. the driver lock (driver.c). Held by every call that changes something (CPU_LOCKED) and while
 *      a host function runs, as NVIDIA's driver does in effect. It guards all lists and tables.
 *      It is never held while waiting for the device, or a host function could never run.
 *   2. a stream's `mutex`: its queue, counters and flags.
 *   3. a fence's `mutex`.
 * Injected faults have a lock of their own that nests inside none.
 */
#ifndef AJIT_CPU_DRIVER_H
#define AJIT_CPU_DRIVER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create, dladdr1; before any system header */
#endif

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../cuda_cxx/abi.h"
#include "cuda.h"

/* ---- entering a call (driver.c) ---- */

enum cpu_need {
    CPU_CONTEXT = 1, /* a context is current on this thread, else 201 */
    CPU_LOCKED = 2,  /* runs under the driver lock */
    CPU_UNSAFE = 4,  /* not while a capture forbids it to this thread, else 900 */
    CPU_ALIVE = 8,   /* fails with the device's error once the device is lost */
    CPU_EARLY = 16,  /* may be called before cuInit */
    CPU_FREE = CPU_CONTEXT | CPU_ALIVE, /* a call that may wait: it takes locks itself */
    CPU_WORK = CPU_FREE | CPU_LOCKED,   /* a call that submits or changes something */
    CPU_SETUP = CPU_WORK | CPU_UNSAFE   /* the same, forbidden during capture */
};

CUresult cpu_enter(const char *function, unsigned needs);
/* Ends the process if the caller breaks a rule of the CUDA thread (rules.c); only in test
 * builds. */
void cpu_check_rules(const char *function, unsigned needs);
void cpu_check_host_function(const char *function, CUhostFn host_function);
void cpu_forget_owner(void); /* the next thread that needs a context is the one */
void cpu_leave(unsigned needs);

/* The body of every exported function: check, perform, leave. */
#define CPU_CALL(needs, expression)                          \
    do {                                                     \
        CUresult cpu_result_ = cpu_enter(__func__, (needs)); \
        if (cpu_result_ == CUDA_SUCCESS) {                   \
            cpu_result_ = (expression);                      \
            cpu_leave(needs);                                \
        }                                                    \
        return cpu_result_;                                  \
    } while (0)

void cpu_lock(void);
void cpu_unlock(void);
/* Marks this thread as being inside a host function: calls are then 800. */
void cpu_set_in_host_function(bool inside);
uint64_t cpu_now_ns(void);
uint64_t cpu_setting(const char *name, uint64_t otherwise, uint64_t least, uint64_t most);

/* ---- faults on demand (fault.c) ---- */

/* Applies an injected delay and returns the injected error, CUDA_SUCCESS if there is none. */
CUresult cpu_injected(const char *function);
bool cpu_callback_is_lost(void);
/* Returns at once unless a test holds the device. */
void cpu_wait_while_held(void);

/* ---- contexts (context.c) ---- */

enum { CPU_MAX_DEVICES = 8 };

struct CUctx_st {
    int device;
    unsigned retained; /* by how many; a reset changes nothing about it */
    bool active;       /* set up by the first retain after the start, a last release or a reset */
    unsigned flags;
    uint64_t id;
    _Atomic int lost;            /* the sticky CUresult, 0 while the device is well */
    struct CUstream_st *streams; /* all of them, default streams included */
    CUstream legacy, per_thread;
};

int cpu_device_count(void);
uint64_t cpu_device_memory_bytes(void);
CUcontext cpu_current(void);
CUcontext cpu_context(int device);
void cpu_lose(CUcontext context, CUresult error);
CUresult cpu_lost(CUcontext context);

/* ---- fences: something that happens once, and when (fence.c) ---- */

typedef struct cpu_fence cpu_fence;
cpu_fence *cpu_fence_new(void);
cpu_fence *cpu_fence_share(cpu_fence *fence);
void cpu_fence_drop(cpu_fence *fence);
void cpu_fence_signal(cpu_fence *fence);
void cpu_fence_wait(cpu_fence *fence);
/* 0 while it has not happened, else the time in nanoseconds. */
uint64_t cpu_fence_time(cpu_fence *fence);

/* ---- streams (stream.c) ---- */

typedef struct cpu_op cpu_op;
struct cpu_op {
    cpu_op *next;
    void (*run)(cpu_op *op, CUstream stream);
    void (*drop)(cpu_op *op); /* frees the operation, whether it ran or not */
    bool always;              /* runs even when the device is lost */
    cpu_fence *signals;       /* happens when the stream is done with the operation, or NULL */
    CUgraphNodeType kind;     /* of the node that it becomes in a capture */
};

typedef struct cpu_capture cpu_capture;

/* Nodes of one graph, each once. */
typedef struct cpu_tips {
    CUgraphNode *nodes;
    size_t count;
} cpu_tips;

struct CUstream_st {
    uint64_t magic;
    CUcontext context;
    CUstream next; /* in the context's list */
    unsigned flags;
    int priority;
    uint64_t id;
    cpu_capture *capture; /* guarded by the driver lock */
    cpu_tips tips;        /* what the next node comes after; the same */
    _Atomic unsigned refs;
    pthread_mutex_t mutex;
    pthread_cond_t work, idle;
    cpu_op *head, *tail;
    _Atomic uint64_t submitted;
    uint64_t done; /* written by the stream's thread only */
    bool started, closing;
};

/* All of these are called under the driver lock, except where noted. */
CUresult cpu_stream_find(CUstream handle, CUstream *stream);
CUresult cpu_stream_new(CUcontext context, unsigned flags, int priority, CUstream *stream);
void cpu_stream_close(CUstream stream);
/* With `bury` their handles stay known, as invalid ones. */
void cpu_streams_close_all(CUcontext context, bool bury);
CUstream cpu_stream_share(CUstream stream);
void cpu_stream_drop(CUstream stream);
/* Takes ownership of `op` in every case. */
CUresult cpu_submit(CUstream stream, cpu_op *op);
CUresult cpu_submit_wait(CUstream stream, cpu_fence *fence);
CUresult cpu_submit_fence(CUstream stream, cpu_fence *fence);
bool cpu_stream_busy(CUstream stream);
/* Waits, without the driver lock, until all that was submitted so far is done. */
void cpu_stream_wait(CUstream stream);
CUresult cpu_context_wait(CUcontext context);
void *cpu_op_new(size_t bytes, void (*run)(cpu_op *, CUstream), void (*drop)(cpu_op *));
void cpu_op_free(cpu_op *op);

/* ---- capture (capture.c) ---- */

bool cpu_capture_forbids(void);
/* CUDA_SUCCESS, or 901 for a stream whose capture is invalidated. The stream is capturing. */
CUresult cpu_capture_check(CUstream stream);
/* Records one operation of a capturing stream. Takes ownership of `op` in every case. */
CUresult cpu_capture_add(CUstream stream, cpu_op *op);
uint64_t cpu_capture_id(const cpu_capture *capture);
/* Fails with 900 and invalidates, if the stream is capturing: for calls that need real
 * completion. */
CUresult cpu_capture_refuse(CUstream stream);
/* `stream` waits for an event that was recorded in the capture `id` behind `tips`. */
CUresult cpu_capture_join(CUstream stream, uint64_t id, const cpu_tips *tips);
void cpu_capture_abandon(CUstream stream);

/* ---- graphs (graph.c), under the driver lock ---- */

void cpu_tips_clear(cpu_tips *tips);
/* Adds those that are not there yet; after a failure, some of them. */
CUresult cpu_tips_add(cpu_tips *tips, const cpu_tips *more);
CUgraph cpu_graph_new(void);
void cpu_graph_delete(CUgraph graph);
/* Adds a node for `op`, which it owns in every case, behind `tips`, and makes it the only tip. */
CUresult cpu_graph_add(CUgraph graph, cpu_op *op, cpu_tips *tips);
/* Adds the graph's nodes to `to` and shares them, with cpu_graph_drop as the way back. After a
 * failure it holds some of them. */
CUresult cpu_graph_share(cpu_tips *to, CUgraph graph);
void cpu_graph_drop(cpu_tips *nodes);                  /* not under the lock */
void cpu_graph_run(CUgraphNode node, CUstream stream); /* on the stream's thread */
/* Whether everything in the graph is a tip or came before one. */
bool cpu_graph_joins(CUgraph graph, const cpu_tips *tips);

/* ---- memory (memory.c) ---- */

enum cpu_kind { CPU_DEVICE_MEMORY, CPU_PINNED_MEMORY, CPU_REGISTERED_MEMORY };

typedef struct cpu_range {
    uintptr_t start;
    size_t bytes;
    enum cpu_kind kind;
    CUcontext context;
    CUmemoryPool pool; /* that it is an allocation of, or NULL */
} cpu_range;

/* The range that contains all of [address, address + bytes), or NULL. Under the driver lock. */
const cpu_range *cpu_memory_find(uintptr_t address, size_t bytes);
/* Whether any of these bytes are known. */
bool cpu_memory_meets(uintptr_t address, size_t bytes);
/* The range that contains `address`, or NULL. */
const cpu_range *cpu_memory_at(uintptr_t address);
CUresult cpu_memory_new(CUcontext context, enum cpu_kind kind, size_t bytes, uintptr_t *address);
CUresult cpu_memory_add(CUcontext context, enum cpu_kind kind, uintptr_t address, size_t bytes);
CUresult cpu_memory_delete(uintptr_t address, enum cpu_kind kind);
void cpu_memory_delete_all(CUcontext context);
uint64_t cpu_memory_used(CUcontext context);
/* Charges bytes to a device that no range has: what a pool keeps. Below 0: no longer. */
void cpu_memory_hold(int device, int64_t bytes);
CUresult cpu_submit_delete(CUstream stream, uintptr_t address, enum cpu_kind kind);

/* ---- memory pools (pool.c), under the driver lock ---- */
void cpu_pools_empty(int device);

CUresult cpu_memory_new_in(CUmemoryPool pool, CUcontext context, enum cpu_kind kind, size_t bytes,
                           uintptr_t *address);
CUmemoryPool cpu_pool_current(int device);
CUresult cpu_pool_allocate(CUmemoryPool pool, size_t bytes, uintptr_t *address);
/* An allocation of this many bytes is gone; with the last one, so may be the pool. */
void cpu_pool_release(CUmemoryPool pool, size_t bytes);

/* ---- modules (module.c, elf.c) ---- */

struct CUfunc_st {
    uint64_t magic;
    CUmodule module;
    const struct ajit_cpu_kernel *kernel;
    int max_dynamic_shared;
    bool large_clusters; /* allowed by CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED */
};

CUresult cpu_elf_size(const void *image, size_t *bytes);
CUresult cpu_elf_prepare(unsigned char *image, size_t bytes);
CUresult cpu_function_find(CUfunction handle);
CUresult cpu_function_name(const char **name, CUfunction function);
CUresult cpu_function_param(CUfunction function, size_t index, size_t *offset, size_t *size);
CUresult cpu_function_attribute(int *value, unsigned attribute, CUfunction function);
CUresult cpu_function_set_attribute(CUfunction function, unsigned attribute, int value);
/* A module of a context, or of a library and no context. */
CUresult cpu_module_load(CUmodule *module, const void *image, CUcontext context, CUlibrary library);
void cpu_module_unload(CUmodule module);
void cpu_modules_unload(CUcontext context, bool bury);
CUlibrary cpu_module_library(CUmodule module);
CUresult cpu_module_function(CUfunction *function, CUmodule module, const char *name);
CUresult cpu_module_count(unsigned *count, CUmodule module);
CUresult cpu_module_functions(CUfunction *functions, unsigned count, CUmodule module);
CUresult cpu_module_global(CUdeviceptr *pointer, size_t *bytes, CUmodule module, const char *name);

/* ---- running (grid.c, block.c, fiber.c) ---- */

typedef struct cpu_grid {
    const struct ajit_cpu_kernel *kernel;
    void *const *params;
    uint32_t grid_dim[3], block_dim[3];
    uint32_t shared_bytes;
} cpu_grid;

/* Runs all blocks on this thread and the pool; returns when all are done, with the first fault. */
CUresult cpu_grid_run(const cpu_grid *grid);
/* Runs one block on this OS thread, which keeps its stacks for the next one. */
CUresult cpu_block_run(const cpu_grid *grid, uint64_t index);

typedef struct cpu_stack cpu_stack;
cpu_stack *cpu_stack_take(void); /* NULL: no memory for another stack */
void cpu_stack_give(cpu_stack *stack);
/* A context that, switched to, calls entry(argument) on `stack`. `entry` must not return. */
void *cpu_fiber_new(cpu_stack *stack, void (*entry)(void *), void *argument);
/* Leaves this context, storing it in *from, and goes on in `to`. */
void cpu_fiber_switch(void **from, void *to);

#endif
