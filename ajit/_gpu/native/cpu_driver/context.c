/* Contexts: one primary context a device, current per thread on a stack.
 *
 * The last release destroys what the context owns, and with it the device's sticky error; a thread
 * that still has it current gets CUDA_ERROR_CONTEXT_IS_DESTROYED.
 */
#include "driver.h"

#include <stdlib.h>

enum { MAX_DEPTH = 64 };
static const int LEAST_PRIORITY = 0, GREATEST_PRIORITY = -5; /* as a current GPU answers */

static struct CUctx_st contexts[CPU_MAX_DEVICES];
static _Thread_local CUcontext stack[MAX_DEPTH];
static _Thread_local int depth;

CUcontext cpu_context(int device) { return &contexts[device]; }

CUcontext cpu_current(void) { return depth > 0 ? stack[depth - 1] : NULL; }

CUresult cpu_lost(CUcontext context) { return (CUresult)atomic_load(&context->lost); }

void cpu_lose(CUcontext context, CUresult error) {
    int well = CUDA_SUCCESS;
    atomic_compare_exchange_strong(&context->lost, &well, (int)error); /* the first error stays */
}

static bool is_context(CUcontext context) {
    return context >= contexts && context < contexts + CPU_MAX_DEVICES;
}

static CUresult activate(CUcontext context, int device) {
    static uint64_t ids;
    context->device = device;
    CUresult result = cpu_stream_new(context, 0, 0, &context->legacy);
    if (result != CUDA_SUCCESS) return result;
    result = cpu_stream_new(context, 0, 0, &context->per_thread);
    if (result != CUDA_SUCCESS) {
        cpu_stream_close(context->legacy);
        return result;
    }
    context->id = ++ids;
    context->active = true;
    return CUDA_SUCCESS;
}

static CUresult retain(CUcontext *pctx, CUdevice dev) {
    if (pctx == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (dev < 0 || dev >= cpu_device_count()) return CUDA_ERROR_INVALID_DEVICE;
    CUcontext context = &contexts[dev];
    if (!context->active) {
        CUresult result = activate(context, dev);
        if (result != CUDA_SUCCESS) return result;
    }
    context->retained++;
    *pctx = context;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev) {
    CPU_CALL(CPU_LOCKED, retain(pctx, dev));
}

/* Called and left with the driver lock held, but waits for the device without it. */
static void destroy(CUcontext context, bool is_reset) {
    cpu_forget_owner();
    cpu_unlock();
    cpu_context_wait(context);
    cpu_lock();
    /* Another thread was faster, or has retained it meanwhile. */
    if (!context->active || (!is_reset && context->retained > 0)) return;
    cpu_modules_unload(context, is_reset);
    cpu_streams_close_all(context, is_reset);
    cpu_memory_delete_all(context);
    cpu_pools_empty(context->device);
    context->legacy = context->per_thread = NULL;
    context->active = false;
    atomic_store(&context->lost, CUDA_SUCCESS);
}

static CUresult release(CUdevice dev) {
    if (dev < 0 || dev >= cpu_device_count()) return CUDA_ERROR_INVALID_DEVICE;
    CUcontext context = &contexts[dev];
    if (context->retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (--context->retained == 0 && context->active) destroy(context, false);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev) { CPU_CALL(CPU_LOCKED, release(dev)); }

/* Releases nothing: who retained the context still has to release it. */
static CUresult reset(CUdevice dev) {
    if (dev < 0 || dev >= cpu_device_count()) return CUDA_ERROR_INVALID_DEVICE;
    CUcontext context = &contexts[dev];
    if (!context->active) return CUDA_SUCCESS;
    cpu_lose(context, CUDA_ERROR_CONTEXT_IS_DESTROYED); /* what is queued never runs */
    destroy(context, true);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev) { CPU_CALL(CPU_LOCKED, reset(dev)); }

static CUresult get_state(CUdevice dev, unsigned *flags, int *active) {
    if (dev < 0 || dev >= cpu_device_count()) return CUDA_ERROR_INVALID_DEVICE;
    if (flags == NULL || active == NULL) return CUDA_ERROR_INVALID_VALUE;
    *flags = contexts[dev].flags;
    *active = contexts[dev].active;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active) {
    CPU_CALL(CPU_LOCKED, get_state(dev, flags, active));
}

static CUresult set_flags(CUdevice dev, unsigned flags) {
    if (dev < 0 || dev >= cpu_device_count()) return CUDA_ERROR_INVALID_DEVICE;
    contexts[dev].flags = flags;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags) {
    CPU_CALL(CPU_LOCKED, set_flags(dev, flags));
}

static CUresult push(CUcontext context) {
    if (!is_context(context)) return CUDA_ERROR_INVALID_CONTEXT;
    if (depth == MAX_DEPTH) return CUDA_ERROR_OUT_OF_MEMORY;
    stack[depth++] = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext ctx) { CPU_CALL(0, push(ctx)); }

static CUresult pop(CUcontext *pctx) {
    if (depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
    CUcontext top = stack[--depth];
    if (pctx != NULL) *pctx = top;
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext *pctx) { CPU_CALL(0, pop(pctx)); }

/* Replaces the top of this thread's stack; NULL takes it off. */
static CUresult set_current(CUcontext context) {
    if (context != NULL && !is_context(context)) return CUDA_ERROR_INVALID_CONTEXT;
    if (depth > 0) depth--;
    return context != NULL ? push(context) : CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext ctx) { CPU_CALL(0, set_current(ctx)); }

static CUresult get_current(CUcontext *pctx) {
    if (pctx == NULL) return CUDA_ERROR_INVALID_VALUE;
    *pctx = cpu_current();
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *pctx) { CPU_CALL(0, get_current(pctx)); }

static CUresult get_device(CUdevice *device) {
    if (device == NULL) return CUDA_ERROR_INVALID_VALUE;
    *device = cpu_current()->device;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device) { CPU_CALL(CPU_CONTEXT, get_device(device)); }

/* NULL means the current context, in this and the other functions that were given a context
 * later. */
static CUresult choose(CUcontext *context) {
    if (*context == NULL) *context = cpu_current();
    if (*context == NULL || !is_context(*context)) return CUDA_ERROR_INVALID_CONTEXT;
    return (*context)->active ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

static CUresult get_device_of(CUdevice *device, CUcontext context) {
    CUresult result = choose(&context);
    if (device == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) *device = context->device;
    return result;
}

CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext ctx) {
    CPU_CALL(0, get_device_of(device, ctx));
}

static CUresult get_id(CUcontext context, unsigned long long *id) {
    if (context == NULL) context = cpu_current();
    if (context == NULL || !is_context(context)) return CUDA_ERROR_INVALID_CONTEXT;
    if (id == NULL) return CUDA_ERROR_INVALID_VALUE;
    *id = context->id;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetId(CUcontext ctx, unsigned long long *ctxId) { CPU_CALL(0, get_id(ctx, ctxId)); }

static CUresult get_flags(unsigned *flags) {
    if (flags == NULL) return CUDA_ERROR_INVALID_VALUE;
    *flags = cpu_current()->flags;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetFlags(unsigned int *flags) { CPU_CALL(CPU_CONTEXT, get_flags(flags)); }

static CUresult get_api_version(CUcontext context, unsigned *version) {
    if (version == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (context != NULL && !is_context(context)) return CUDA_ERROR_INVALID_CONTEXT;
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetApiVersion(CUcontext ctx, unsigned int *version) {
    CPU_CALL(0, get_api_version(ctx, version));
}

static CUresult get_priority_range(int *least, int *greatest) {
    if (least != NULL) *least = LEAST_PRIORITY;
    if (greatest != NULL) *greatest = GREATEST_PRIORITY;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int *leastPriority, int *greatestPriority) {
    CPU_CALL(CPU_CONTEXT, get_priority_range(leastPriority, greatestPriority));
}

CUresult cuCtxSynchronize(void) {
    CPU_CALL(CPU_FREE | CPU_UNSAFE, cpu_context_wait(cpu_current()));
}

static CUresult synchronize(CUcontext context) {
    CUresult result = choose(&context);
    return result == CUDA_SUCCESS ? cpu_context_wait(context) : result;
}

CUresult cuCtxSynchronize_v2(CUcontext ctx) { CPU_CALL(CPU_UNSAFE, synchronize(ctx)); }
