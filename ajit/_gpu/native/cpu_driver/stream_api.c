/* The driver API's stream functions and host functions. */
#include "driver.h"

enum { LEAST_PRIORITY = 0, GREATEST_PRIORITY = -5 };

static CUresult create(CUstream *phStream, unsigned flags, int priority) {
    if (phStream == NULL || (flags & ~CU_STREAM_NON_BLOCKING)) return CUDA_ERROR_INVALID_VALUE;
    if (priority > LEAST_PRIORITY) priority = LEAST_PRIORITY;
    if (priority < GREATEST_PRIORITY) priority = GREATEST_PRIORITY;
    return cpu_stream_new(cpu_current(), flags, priority, phStream);
}

CUresult cuStreamCreate(CUstream *phStream, unsigned int Flags) {
    CPU_CALL(CPU_WORK, create(phStream, Flags, LEAST_PRIORITY));
}

CUresult cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority) {
    CPU_CALL(CPU_WORK, create(phStream, flags, priority));
}

/* Returns at once: what was submitted is still performed. The default streams cannot be
 * destroyed. */
static CUresult destroy(CUstream handle) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (result != CUDA_SUCCESS) return result;
    if (stream == stream->context->legacy || stream == stream->context->per_thread)
        return CUDA_ERROR_INVALID_HANDLE;
    cpu_stream_close(stream);
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream hStream) {
    CPU_CALL(CPU_CONTEXT | CPU_LOCKED, destroy(hStream));
}

static CUresult query(CUstream handle) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (result == CUDA_SUCCESS) result = cpu_capture_refuse(stream);
    if (result != CUDA_SUCCESS) return result;
    if (cpu_stream_busy(stream)) return CUDA_ERROR_NOT_READY;
    return cpu_lost(stream->context);
}

CUresult cuStreamQuery(CUstream hStream) { CPU_CALL(CPU_FREE, query(hStream)); }

static CUresult synchronize(CUstream handle) {
    CUstream stream;
    cpu_lock();
    CUresult result = cpu_stream_find(handle, &stream);
    if (result == CUDA_SUCCESS) result = cpu_capture_refuse(stream);
    if (result == CUDA_SUCCESS) cpu_stream_share(stream);
    cpu_unlock();
    if (result != CUDA_SUCCESS) return result;
    cpu_stream_wait(stream);
    result = cpu_lost(stream->context);
    cpu_stream_drop(stream);
    return result;
}

CUresult cuStreamSynchronize(CUstream hStream) { CPU_CALL(CPU_FREE, synchronize(hStream)); }

static CUresult get_priority(CUstream handle, int *priority) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (priority == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) *priority = stream->priority;
    return result;
}

CUresult cuStreamGetPriority(CUstream hStream, int *priority) {
    CPU_CALL(CPU_CONTEXT, get_priority(hStream, priority));
}

static CUresult get_flags(CUstream handle, unsigned *flags) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (flags == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) *flags = stream->flags;
    return result;
}

CUresult cuStreamGetFlags(CUstream hStream, unsigned int *flags) {
    CPU_CALL(CPU_CONTEXT, get_flags(hStream, flags));
}

static CUresult get_context(CUstream handle, CUcontext *context) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (context == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) *context = stream->context;
    return result;
}

CUresult cuStreamGetCtx(CUstream hStream, CUcontext *pctx) {
    CPU_CALL(CPU_CONTEXT, get_context(hStream, pctx));
}

static CUresult get_device(CUstream handle, CUdevice *device) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (device == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) *device = stream->context->device;
    return result;
}

CUresult cuStreamGetDevice(CUstream hStream, CUdevice *device) {
    CPU_CALL(CPU_CONTEXT, get_device(hStream, device));
}

static CUresult get_id(CUstream handle, unsigned long long *id) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (id == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) *id = stream->id;
    return result;
}

CUresult cuStreamGetId(CUstream hStream, unsigned long long *streamId) {
    CPU_CALL(CPU_CONTEXT, get_id(hStream, streamId));
}

/* ---- host functions ---- */

typedef struct host_op {
    cpu_op op;
    CUhostFn function;
    void *argument;
} host_op;

/* Under the driver lock, on a driver thread: the situation in which taking another lock, such as an
 * interpreter's, can deadlock with a thread that holds it and enters the driver. */
static void run_host_function(cpu_op *base, CUstream stream) {
    host_op *op = (host_op *)base;
    CUresult injected = cpu_injected("device:host");
    if (injected != CUDA_SUCCESS) cpu_lose(stream->context, injected);
    if (injected != CUDA_SUCCESS || cpu_callback_is_lost()) return;
    cpu_lock();
    cpu_set_in_host_function(true);
    op->function(op->argument);
    cpu_set_in_host_function(false);
    cpu_unlock();
}

static CUresult launch_host_function(CUstream handle, CUhostFn function, void *argument) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (result != CUDA_SUCCESS) return result;
    if (function == NULL) return CUDA_ERROR_INVALID_VALUE;
    host_op *op = cpu_op_new(sizeof *op, run_host_function, cpu_op_free);
    if (op == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    op->op.kind = CU_GRAPH_NODE_TYPE_HOST;
    op->function = function;
    op->argument = argument;
    return cpu_submit(stream, &op->op);
}

CUresult cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData) {
    cpu_check_host_function(__func__, fn);
    CPU_CALL(CPU_WORK, launch_host_function(hStream, fn, userData));
}
