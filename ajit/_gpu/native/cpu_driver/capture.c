/* Stream capture: its state and what it forbids. What is captured becomes a graph (graph.c).
 *
 * A capture belongs to the stream it began in and to the streams that joined it by waiting for an
 * event recorded in it. Each of these has its tips: the nodes that its next node comes after. While
 * a capture is open, calls that NVIDIA calls potentially unsafe (allocation, loading, event
 * queries) are forbidden to the threads that its mode names, unless they changed their own mode; a
 * forbidden call returns 900 and invalidates the captures that forbade it, so that ending them
 * returns 901. Everything here is guarded by the driver lock.
 */
#include "driver.h"

#include <stdlib.h>

struct cpu_capture {
    uint64_t id; /* never used again, as an address may be: events keep it */
    CUstream origin;
    CUstreamCaptureMode mode;
    CUstreamCaptureStatus status;
    pthread_t thread;
    CUgraph graph;
    cpu_capture *next; /* in the list of open captures */
};

static cpu_capture *captures;
static _Thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

/* ---- what captures forbid ---- */

static bool forbids(const cpu_capture *capture) {
    bool own = pthread_equal(capture->thread, pthread_self());
    if (thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return false;
    if (own) return capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
    return thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
           capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
}

bool cpu_capture_forbids(void) {
    bool forbidden = false;
    for (cpu_capture *capture = captures; capture != NULL; capture = capture->next)
        if (forbids(capture)) {
            capture->status = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
            forbidden = true;
        }
    return forbidden;
}

CUresult cpu_capture_refuse(CUstream stream) {
    if (stream->capture == NULL) return CUDA_SUCCESS;
    stream->capture->status = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

static CUresult exchange_mode(CUstreamCaptureMode *mode) {
    if (mode == NULL || (unsigned)*mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    CUstreamCaptureMode old = thread_mode;
    thread_mode = *mode;
    *mode = old;
    return CUDA_SUCCESS;
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
    CPU_CALL(0, exchange_mode(mode));
}

/* ---- a capture's life ---- */

static CUresult begin(CUstream handle, CUstreamCaptureMode mode) {
    static uint64_t ids;
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (result != CUDA_SUCCESS) return result;
    if ((unsigned)mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
    if (stream == stream->context->legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture != NULL) return CUDA_ERROR_INVALID_VALUE;
    cpu_capture *capture = calloc(1, sizeof *capture);
    if (capture == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    *capture = (cpu_capture){.id = ++ids, .origin = stream, .mode = mode, .next = captures};
    capture->graph = cpu_graph_new();
    if (capture->graph == NULL) {
        free(capture);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    capture->status = CU_STREAM_CAPTURE_STATUS_ACTIVE;
    capture->thread = pthread_self();
    captures = stream->capture = capture;
    return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode) {
    CPU_CALL(CPU_WORK, begin(hStream, mode));
}

CUresult cpu_capture_check(CUstream stream) {
    bool active = stream->capture->status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return active ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}

CUresult cpu_capture_add(CUstream stream, cpu_op *op) {
    CUresult result = cpu_capture_check(stream);
    if (result == CUDA_SUCCESS) return cpu_graph_add(stream->capture->graph, op, &stream->tips);
    op->drop(op);
    return result;
}

uint64_t cpu_capture_id(const cpu_capture *capture) { return capture->id; }

static cpu_capture *find_open(uint64_t id) {
    cpu_capture *capture = captures;
    while (capture != NULL && capture->id != id) capture = capture->next;
    return capture;
}

CUresult cpu_capture_join(CUstream stream, uint64_t id, const cpu_tips *tips) {
    cpu_capture *capture = find_open(id);
    if (capture == NULL) return CUDA_ERROR_CAPTURED_EVENT;
    if (stream->capture != NULL && stream->capture != capture)
        return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    if (stream == stream->context->legacy) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    stream->capture = capture;
    return cpu_tips_add(&stream->tips, tips);
}

/* Takes all streams out of the capture and forgets it. False if one of them had unjoined work. */
static bool close_capture(cpu_capture *capture) {
    bool joined = cpu_graph_joins(capture->graph, &capture->origin->tips);
    for (CUstream each = capture->origin->context->streams; each != NULL; each = each->next)
        if (each->capture == capture) {
            cpu_tips_clear(&each->tips);
            each->capture = NULL;
        }
    for (cpu_capture **link = &captures; *link != NULL; link = &(*link)->next)
        if (*link == capture) {
            *link = capture->next;
            break;
        }
    return joined;
}

static CUresult end(CUstream handle, CUgraph *graph) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (result != CUDA_SUCCESS) return result;
    cpu_capture *capture = stream->capture;
    if (graph == NULL || capture == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (capture->origin != stream) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
        !pthread_equal(capture->thread, pthread_self()))
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    bool valid = capture->status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
    if (!close_capture(capture)) result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    if (!valid) result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = result == CUDA_SUCCESS ? capture->graph : NULL;
    if (result != CUDA_SUCCESS) cpu_graph_delete(capture->graph);
    free(capture);
    return result;
}

CUresult cuStreamEndCapture(CUstream hStream, CUgraph *phGraph) {
    CPU_CALL(CPU_WORK, end(hStream, phGraph));
}

/* A stream of a capture is destroyed: the capture can no longer be ended well. */
void cpu_capture_abandon(CUstream stream) {
    cpu_capture *capture = stream->capture;
    if (capture == NULL) return;
    if (capture->origin != stream) {
        capture->status = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
        stream->capture = NULL;
        cpu_tips_clear(&stream->tips);
        return;
    }
    close_capture(capture);
    cpu_graph_delete(capture->graph);
    free(capture);
}

static CUresult is_capturing(CUstream handle, CUstreamCaptureStatus *status) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (result != CUDA_SUCCESS) return result;
    if (status == NULL) return CUDA_ERROR_INVALID_VALUE;
    *status = stream->capture != NULL ? stream->capture->status : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus *captureStatus) {
    CPU_CALL(CPU_CONTEXT | CPU_LOCKED, is_capturing(hStream, captureStatus));
}

/* Only the status is given when the stream is not capturing; any of the others may be left out. */
static CUresult get_info(CUstream handle, CUstreamCaptureStatus *status, cuuint64_t *id,
                         CUgraph *graph, const CUgraphNode **tips, size_t *count) {
    CUstream stream;
    CUresult result = is_capturing(handle, status);
    if (result == CUDA_SUCCESS) result = cpu_stream_find(handle, &stream);
    if (result != CUDA_SUCCESS || *status != CU_STREAM_CAPTURE_STATUS_ACTIVE) return result;
    if (id != NULL) *id = stream->capture->id;
    if (graph != NULL) *graph = stream->capture->graph;
    if (tips != NULL) *tips = stream->tips.nodes;
    if (count != NULL) *count = stream->tips.count;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetCaptureInfo_v3(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
                                   cuuint64_t *id_out, CUgraph *graph_out,
                                   const CUgraphNode **dependencies_out,
                                   const CUgraphEdgeData **edgeData_out,
                                   size_t *numDependencies_out) {
    if (edgeData_out != NULL) *edgeData_out = NULL; /* all edges are plain ones */
    CPU_CALL(CPU_CONTEXT | CPU_LOCKED, get_info(hStream, captureStatus_out, id_out, graph_out,
                                                dependencies_out, numDependencies_out));
}
