/* Events: the fence of the last record, which a stream or thread may wait for.
 *
 * Recording again replaces the fence; a waiter for the earlier record keeps that one. Handles are
 * guarded by the driver lock, waiting happens without it.
 */
#include "driver.h"

#include <stdlib.h>

static const uint64_t MAGIC = 0x616a69742d657674; /* "ajit-evt" */
static const double NS_PER_MS = 1e6;

struct CUevent_st {
    uint64_t magic;
    CUcontext context;
    unsigned flags;
    cpu_fence *fence;    /* NULL: never recorded, or recorded in a capture */
    uint64_t capture_id; /* of the capture it was last recorded in, or 0 */
    cpu_tips tips;       /* what it was recorded behind; valid while that capture is open */
};

static CUresult find(CUevent event) {
    if (event == NULL || event->magic != MAGIC) return CUDA_ERROR_INVALID_HANDLE;
    return CUDA_SUCCESS;
}

static CUresult create(CUevent *phEvent, unsigned flags) {
    unsigned known = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    if (phEvent == NULL || (flags & ~known)) return CUDA_ERROR_INVALID_VALUE;
    if (flags & CU_EVENT_INTERPROCESS) return CUDA_ERROR_NOT_SUPPORTED;
    CUevent event = calloc(1, sizeof *event);
    if (event == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    event->magic = MAGIC;
    event->context = cpu_current();
    event->flags = flags;
    *phEvent = event;
    return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent *phEvent, unsigned int Flags) {
    CPU_CALL(CPU_WORK, create(phEvent, Flags));
}

static void forget_record(CUevent event) {
    cpu_fence_drop(event->fence);
    cpu_tips_clear(&event->tips);
    event->fence = NULL;
    event->capture_id = 0;
}

static CUresult destroy(CUevent event) {
    CUresult result = find(event);
    if (result != CUDA_SUCCESS) return result;
    forget_record(event);
    event->magic = 0;
    free(event);
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent hEvent) { CPU_CALL(CPU_CONTEXT | CPU_LOCKED, destroy(hEvent)); }

/* No node: the event only remembers what it came after. External records would be nodes. */
static CUresult record_in_capture(CUevent event, CUstream stream, unsigned flags) {
    CUresult result = cpu_capture_check(stream);
    if (result != CUDA_SUCCESS) return result;
    if (flags & CU_EVENT_RECORD_EXTERNAL) return CUDA_ERROR_NOT_SUPPORTED;
    forget_record(event);
    event->capture_id = cpu_capture_id(stream->capture);
    return cpu_tips_add(&event->tips, &stream->tips);
}

static CUresult record(CUevent event, CUstream handle, unsigned flags) {
    CUstream stream;
    CUresult result = find(event);
    if (result == CUDA_SUCCESS) result = cpu_stream_find(handle, &stream);
    if (result != CUDA_SUCCESS) return result;
    if (flags & ~CU_EVENT_RECORD_EXTERNAL) return CUDA_ERROR_INVALID_VALUE;
    if (stream->context != event->context) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture != NULL) return record_in_capture(event, stream, flags);
    cpu_fence *fence = cpu_fence_new();
    if (fence == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    result = cpu_submit_fence(stream, fence);
    if (result == CUDA_SUCCESS) {
        forget_record(event);
        event->fence = fence;
    } else {
        cpu_fence_drop(fence);
    }
    return result;
}

CUresult cuEventRecord(CUevent hEvent, CUstream hStream) {
    CPU_CALL(CPU_WORK, record(hEvent, hStream, 0));
}

CUresult cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags) {
    CPU_CALL(CPU_WORK, record(hEvent, hStream, flags));
}

/* The fence of the last record, shared; NULL in *fence when the event was never recorded. */
static CUresult share_fence(CUevent event, cpu_fence **fence) {
    CUresult result = find(event);
    if (result != CUDA_SUCCESS) return result;
    if (event->capture_id != 0) return CUDA_ERROR_CAPTURED_EVENT;
    *fence = event->fence != NULL ? cpu_fence_share(event->fence) : NULL;
    return CUDA_SUCCESS;
}

static CUresult query(CUevent event) {
    cpu_fence *fence;
    CUresult result = share_fence(event, &fence);
    if (result != CUDA_SUCCESS || fence == NULL) return result;
    if (cpu_fence_time(fence) == 0) result = CUDA_ERROR_NOT_READY;
    cpu_fence_drop(fence);
    return result;
}

CUresult cuEventQuery(CUevent hEvent) { CPU_CALL(CPU_SETUP, query(hEvent)); }

static CUresult synchronize(CUevent event) {
    cpu_fence *fence;
    cpu_lock();
    CUresult result = share_fence(event, &fence);
    cpu_unlock();
    if (result != CUDA_SUCCESS || fence == NULL) return result;
    cpu_fence_wait(fence);
    cpu_fence_drop(fence);
    return cpu_lost(event->context);
}

CUresult cuEventSynchronize(CUevent hEvent) {
    CPU_CALL(CPU_FREE | CPU_UNSAFE, synchronize(hEvent));
}

static CUresult elapsed(float *milliseconds, CUevent start, CUevent end) {
    if (milliseconds == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (find(start) != CUDA_SUCCESS || find(end) != CUDA_SUCCESS) return CUDA_ERROR_INVALID_HANDLE;
    if ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) return CUDA_ERROR_INVALID_HANDLE;
    if (start->capture_id != 0 || end->capture_id != 0) return CUDA_ERROR_CAPTURED_EVENT;
    if (start->fence == NULL || end->fence == NULL) return CUDA_ERROR_INVALID_HANDLE;
    uint64_t from = cpu_fence_time(start->fence), to = cpu_fence_time(end->fence);
    if (from == 0 || to == 0) return CUDA_ERROR_NOT_READY;
    *milliseconds = (float)((double)(int64_t)(to - from) / NS_PER_MS);
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd) {
    CPU_CALL(CPU_WORK, elapsed(pMilliseconds, hStart, hEnd));
}

static CUresult wait_in_stream(CUstream handle, CUevent event, unsigned flags) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (result == CUDA_SUCCESS) result = find(event);
    if (result != CUDA_SUCCESS) return result;
    if (flags & ~CU_EVENT_WAIT_EXTERNAL) return CUDA_ERROR_INVALID_VALUE;
    if (event->capture_id != 0) return cpu_capture_join(stream, event->capture_id, &event->tips);
    if (event->fence == NULL) return CUDA_SUCCESS; /* never recorded: nothing to wait for */
    if (stream->capture != NULL) return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    return cpu_submit_wait(stream, event->fence);
}

CUresult cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags) {
    CPU_CALL(CPU_WORK, wait_in_stream(hStream, hEvent, Flags));
}
