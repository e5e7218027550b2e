/* Graphs: captured in one go, so that no other operation of ajit comes into an open capture.
 *
 * The operations of one submission are captured on a separate stream. A load, an allocation or a
 * free would break the capture, but those wait: the thread is busy until the capture is over.
 */
#include "executor.h"

/* Captures everything behind the first operation, which is AJIT_CAPTURE. */
static int capture(struct ajit_executor *executor, struct ajit_ticket *ticket, CUgraph *graph) {
    struct ajit_driver *driver = &executor->driver;
    bool enqueued = false;
    int code = CUDA_SUCCESS;
    if (!executor->capture_stream)
        code = driver->stream_create(&executor->capture_stream, CU_STREAM_NON_BLOCKING, 0);
    if (!code)
        code =
            driver->stream_begin_capture(executor->capture_stream, CU_STREAM_CAPTURE_MODE_RELAXED);
    if (code) return code;
    ticket->stream = executor->capture_stream;
    code = ajit_operate_all(executor, ticket, 1, &enqueued);
    /* Also after a failure: a stream whose capture is not ended takes no other work. */
    int ended = driver->stream_end_capture(executor->capture_stream, graph);
    return code ? code : ended;
}

int ajit_graph_make(struct ajit_executor *executor, struct ajit_ticket *ticket) {
    struct ajit_driver *driver = &executor->driver;
    CUgraph graph = NULL;
    CUgraphExec launchable = NULL;
    if (!driver->graph_instantiate || !driver->graph_launch || !driver->graph_exec_destroy)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!ajit_resource_make(executor, ticket, AJIT_GRAPH)) return CUDA_ERROR_OUT_OF_MEMORY;
    ajit_heartbeat_enter(executor, AJIT_CAPTURE, ticket->number);
    int code = capture(executor, ticket, &graph);
    if (!code) code = driver->graph_instantiate(&launchable, graph, 0);
    if (graph) driver->graph_destroy(graph);
    if (code) {
        ajit_resource_unmake(executor, ticket);
        return code;
    }
    ticket->made->pointer = (uint64_t)(uintptr_t)launchable;
    return CUDA_SUCCESS;
}
