/* Executable graphs: a graph's operations, launched again and again.
 *
 * A launch performs all nodes in the order in which they were captured, which is one of the orders
 * that the edges allow: branches do not run side by side here, and no correct program can tell.
 * Launches of one executable follow each other whatever their streams, as documented for NVIDIA's
 * driver. Its nodes are shared with the graph, so either may go first; work that was launched keeps
 * the executable alive, and drops it on the stream's thread, without the driver lock.
 */
#include "driver.h"

#include <stdlib.h>

static const uint64_t EXEC_MAGIC = 0x616a69742d657865; /* "ajit-exe" */
enum { KNOWN_FLAGS = 1 | 2 | 8 }; /* free on launch, upload, node priorities: nothing to do here */

struct CUgraphExec_st {
    uint64_t magic;
    _Atomic unsigned refs;
    cpu_tips nodes;
    cpu_fence *last; /* of the last launch */
};

static void drop_exec(CUgraphExec exec) {
    if (atomic_fetch_sub(&exec->refs, 1) != 1) return;
    cpu_graph_drop(&exec->nodes);
    cpu_fence_drop(exec->last);
    free(exec);
}

static CUresult instantiate(CUgraphExec *result_exec, CUgraph graph, unsigned long long flags) {
    if (result_exec == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (flags & ~(unsigned long long)KNOWN_FLAGS) return CUDA_ERROR_INVALID_VALUE;
    CUgraphExec exec = calloc(1, sizeof *exec);
    if (exec == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    exec->magic = EXEC_MAGIC;
    atomic_init(&exec->refs, 1);
    CUresult result = cpu_graph_share(&exec->nodes, graph);
    if (result == CUDA_SUCCESS) *result_exec = exec;
    else drop_exec(exec);
    return result;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph,
                                     unsigned long long flags) {
    CPU_CALL(CPU_WORK, instantiate(phGraphExec, hGraph, flags));
}

static CUresult instantiate_with(CUgraphExec *exec, CUgraph graph,
                                 CUDA_GRAPH_INSTANTIATE_PARAMS *params) {
    if (params == NULL) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = instantiate(exec, graph, params->flags);
    params->hErrNode_out = NULL;
    params->result_out =
        result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
    return result;
}

CUresult cuGraphInstantiateWithParams(CUgraphExec *phGraphExec, CUgraph hGraph,
                                      CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams) {
    CPU_CALL(CPU_WORK, instantiate_with(phGraphExec, hGraph, instantiateParams));
}

static CUresult find_exec(CUgraphExec exec) {
    return exec != NULL && exec->magic == EXEC_MAGIC ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* Work that was launched goes on, and keeps what it needs. */
static CUresult destroy_exec(CUgraphExec exec) {
    CUresult result = find_exec(exec);
    if (result != CUDA_SUCCESS) return result;
    exec->magic = 0;
    drop_exec(exec);
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec hGraphExec) {
    CPU_CALL(CPU_LOCKED, destroy_exec(hGraphExec));
}

CUresult cuGraphUpload(CUgraphExec hGraphExec, CUstream hStream) {
    (void)hStream; /* there is nothing to upload */
    CPU_CALL(CPU_WORK, find_exec(hGraphExec));
}

typedef struct graph_op {
    cpu_op op;
    CUgraphExec exec;
} graph_op;

static void run_graph(cpu_op *base, CUstream stream) {
    const cpu_tips *nodes = &((graph_op *)base)->exec->nodes;
    for (size_t i = 0; i < nodes->count && cpu_lost(stream->context) == CUDA_SUCCESS; i++)
        cpu_graph_run(nodes->nodes[i], stream);
}

static void drop_graph_op(cpu_op *base) {
    drop_exec(((graph_op *)base)->exec);
    cpu_op_free(base);
}

static CUresult submit_graph(CUgraphExec exec, CUstream stream) {
    graph_op *op = cpu_op_new(sizeof *op, run_graph, drop_graph_op);
    if (op == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    op->exec = exec;
    atomic_fetch_add(&exec->refs, 1);
    return cpu_submit(stream, &op->op);
}

static CUresult launch(CUgraphExec exec, CUstream handle) {
    CUstream stream;
    CUresult result = find_exec(exec);
    if (result == CUDA_SUCCESS) result = cpu_stream_find(handle, &stream);
    if (result != CUDA_SUCCESS) return result;
    if (stream->capture != NULL) return CUDA_ERROR_NOT_SUPPORTED; /* no graphs inside graphs */
    cpu_fence *done = cpu_fence_new();
    if (done == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    if (exec->last != NULL) result = cpu_submit_wait(stream, exec->last);
    if (result == CUDA_SUCCESS) result = submit_graph(exec, stream);
    if (result == CUDA_SUCCESS) result = cpu_submit_fence(stream, done);
    cpu_fence_drop(result == CUDA_SUCCESS ? exec->last : done);
    if (result == CUDA_SUCCESS) exec->last = done;
    return result;
}

CUresult cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream) {
    CPU_CALL(CPU_WORK, launch(hGraphExec, hStream));
}
