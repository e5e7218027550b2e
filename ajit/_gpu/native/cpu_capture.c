/* Stream capture: its state and what it forbids. Captured operations are counted, not kept.
 *
 * A capture belongs to the stream it began in and to the streams that joined it by waiting for an
 * event recorded in it. While a capture is open, calls that NVIDIA calls potentially unsafe
 * (allocation, loading, event queries) are forbidden to the threads that its mode names, unless
 * they changed their own mode; a forbidden call returns 900 and invalidates the captures that
 * forbade it, so that ending them returns 901. Everything here is guarded by the driver lock.
 */
#include "cpu_driver.h"

#include <stdlib.h>

struct cpu_capture {
    CUstream origin;
    CUstreamCaptureMode mode;
    CUstreamCaptureStatus status;
    pthread_t thread;
    CUgraph graph;
    cpu_capture *next; /* in the list of open captures */
};

struct CUgraph_st {
    size_t node_count;
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
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (result != CUDA_SUCCESS) return result;
    if ((unsigned)mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
    if (stream == stream->context->legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture != NULL) return CUDA_ERROR_INVALID_VALUE;
    cpu_capture *capture = calloc(1, sizeof *capture);
    CUgraph graph = calloc(1, sizeof *graph);
    if (capture == NULL || graph == NULL) {
        free(capture);
        free(graph);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *capture = (cpu_capture){.origin = stream, .mode = mode, .graph = graph, .next = captures};
    capture->status = CU_STREAM_CAPTURE_STATUS_ACTIVE;
    capture->thread = pthread_self();
    captures = stream->capture = capture;
    return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode) {
    CPU_CALL(CPU_WORK, begin(hStream, mode));
}

CUresult cpu_capture_add(CUstream stream) {
    cpu_capture *capture = stream->capture;
    if (capture->status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    capture->graph->node_count++;
    if (stream != capture->origin) stream->unjoined = true;
    return CUDA_SUCCESS;
}

static bool is_open(const cpu_capture *capture) {
    for (cpu_capture *each = captures; each != NULL; each = each->next)
        if (each == capture) return true;
    return false;
}

/* `stream` waits for an event recorded in `from` while that was part of `capture`. */
CUresult cpu_capture_join(CUstream stream, cpu_capture *capture, CUstream from) {
    if (!is_open(capture)) return CUDA_ERROR_CAPTURED_EVENT;
    if (stream->capture != NULL && stream->capture != capture) return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    if (stream == stream->context->legacy) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    if (stream != capture->origin) stream->unjoined = true;
    if (stream->capture == capture) from->unjoined = false;
    stream->capture = capture;
    return CUDA_SUCCESS;
}

/* Takes all streams out of the capture and forgets it. True if one of them had unjoined work. */
static bool close_capture(cpu_capture *capture) {
    bool unjoined = false;
    for (CUstream each = capture->origin->context->streams; each != NULL; each = each->next)
        if (each->capture == capture) {
            unjoined |= each->unjoined;
            each->unjoined = false;
            each->capture = NULL;
        }
    for (cpu_capture **link = &captures; *link != NULL; link = &(*link)->next)
        if (*link == capture) {
            *link = capture->next;
            break;
        }
    return unjoined;
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
    if (close_capture(capture)) result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    if (!valid) result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = result == CUDA_SUCCESS ? capture->graph : NULL;
    if (result != CUDA_SUCCESS) free(capture->graph);
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
        return;
    }
    close_capture(capture);
    free(capture->graph);
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

/* ---- graphs: only what a capture hands out ---- */

static CUresult destroy_graph(CUgraph graph) {
    free(graph);
    return graph != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGraphDestroy(CUgraph hGraph) { CPU_CALL(CPU_LOCKED, destroy_graph(hGraph)); }

/* Answers how many operations were captured; the nodes themselves are not kept. */
static CUresult get_nodes(CUgraph graph, CUgraphNode *nodes, size_t *count) {
    if (graph == NULL || count == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (nodes != NULL) return CUDA_ERROR_NOT_SUPPORTED;
    *count = graph->node_count;
    return CUDA_SUCCESS;
}

CUresult cuGraphGetNodes(CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes) {
    CPU_CALL(CPU_LOCKED, get_nodes(hGraph, nodes, numNodes));
}
