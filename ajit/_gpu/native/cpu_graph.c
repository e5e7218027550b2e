/* Graphs: what a capture recorded, and what can be launched again and again.
 *
 * A node keeps one operation that is run but never used up, and the nodes it came after. A graph
 * owns its nodes; an executable shares them, so either may go first. A launch performs all nodes in
 * the order in which they were captured, which is one of the orders that the edges allow: branches
 * do not run side by side here, and no correct program can tell. Launches of one executable follow
 * each other whatever their streams, as documented for NVIDIA's driver. Handles and lists are
 * guarded by the driver lock; node and executable counts are atomic, as streams drop theirs without it.
 */
#include "cpu_driver.h"

#include <stdlib.h>
#include <string.h>

static const uint64_t GRAPH_MAGIC = 0x616a69742d677270; /* "ajit-grp" */
static const uint64_t EXEC_MAGIC = 0x616a69742d657865;  /* "ajit-exe" */
enum { KNOWN_FLAGS = 1 | 2 | 8 }; /* free on launch, upload, node priorities: nothing to do here */

struct CUgraphNode_st {
    _Atomic unsigned refs;
    cpu_op *op;
    cpu_tips after;
    bool reached; /* used while a capture ends */
};

struct CUgraph_st {
    uint64_t magic;
    cpu_tips nodes;
};

struct CUgraphExec_st {
    uint64_t magic;
    _Atomic unsigned refs;
    CUcontext context;
    cpu_tips nodes;
    cpu_fence *last; /* of the last launch */
};

/* ---- sets of nodes ---- */

void cpu_tips_clear(cpu_tips *tips) {
    free(tips->nodes);
    *tips = (cpu_tips){NULL, 0};
}

static bool has(const cpu_tips *tips, CUgraphNode node) {
    for (size_t i = 0; i < tips->count; i++)
        if (tips->nodes[i] == node) return true;
    return false;
}

/* Doubles the room whenever the count reaches a power of two. */
static CUresult append(cpu_tips *tips, CUgraphNode node) {
    if ((tips->count & (tips->count - 1)) == 0) {
        size_t room = tips->count > 0 ? tips->count * 2 : 1;
        CUgraphNode *grown = realloc(tips->nodes, room * sizeof *grown);
        if (grown == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
        tips->nodes = grown;
    }
    tips->nodes[tips->count++] = node;
    return CUDA_SUCCESS;
}

CUresult cpu_tips_add(cpu_tips *tips, const cpu_tips *more) {
    CUresult result = CUDA_SUCCESS;
    for (size_t i = 0; i < more->count && result == CUDA_SUCCESS; i++)
        if (!has(tips, more->nodes[i])) result = append(tips, more->nodes[i]);
    return result;
}

/* ---- nodes ---- */

static void drop_node(CUgraphNode node) {
    if (atomic_fetch_sub(&node->refs, 1) != 1) return;
    node->op->drop(node->op);
    cpu_tips_clear(&node->after);
    free(node);
}

static void drop_nodes(cpu_tips *nodes) {
    for (size_t i = 0; i < nodes->count; i++) drop_node(nodes->nodes[i]);
    cpu_tips_clear(nodes);
}

static CUresult share_nodes(cpu_tips *to, const cpu_tips *from) {
    CUresult result = CUDA_SUCCESS;
    for (size_t i = 0; i < from->count && result == CUDA_SUCCESS; i++) {
        result = append(to, from->nodes[i]); /* all different: no search */
        if (result == CUDA_SUCCESS) atomic_fetch_add(&from->nodes[i]->refs, 1);
    }
    if (result != CUDA_SUCCESS) drop_nodes(to);
    return result;
}

/* ---- graphs ---- */

CUgraph cpu_graph_new(void) {
    CUgraph graph = calloc(1, sizeof *graph);
    if (graph != NULL) graph->magic = GRAPH_MAGIC;
    return graph;
}

void cpu_graph_delete(CUgraph graph) {
    drop_nodes(&graph->nodes);
    graph->magic = 0;
    free(graph);
}

CUresult cpu_graph_add(CUgraph graph, cpu_op *op, cpu_tips *tips) {
    CUgraphNode node = calloc(1, sizeof *node);
    CUresult result = node != NULL ? append(&graph->nodes, node) : CUDA_ERROR_OUT_OF_MEMORY;
    if (result != CUDA_SUCCESS) {
        free(node);
        op->drop(op);
        return result;
    }
    atomic_init(&node->refs, 1);
    node->op = op;
    node->after = *tips;
    *tips = (cpu_tips){NULL, 0};
    return append(tips, node);
}

/* Captured order is topological: going backwards, all that a node came after is seen behind it. */
bool cpu_graph_joins(CUgraph graph, const cpu_tips *tips) {
    bool all = true;
    for (size_t i = 0; i < graph->nodes.count; i++) graph->nodes.nodes[i]->reached = false;
    for (size_t i = 0; i < tips->count; i++) tips->nodes[i]->reached = true;
    for (size_t i = graph->nodes.count; i-- > 0;) {
        CUgraphNode node = graph->nodes.nodes[i];
        for (size_t j = 0; node->reached && j < node->after.count; j++)
            node->after.nodes[j]->reached = true;
        all &= node->reached;
    }
    return all;
}

static CUresult find_graph(CUgraph graph) {
    return graph != NULL && graph->magic == GRAPH_MAGIC ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult destroy_graph(CUgraph graph) {
    CUresult result = find_graph(graph);
    if (result == CUDA_SUCCESS) cpu_graph_delete(graph);
    return result;
}

CUresult cuGraphDestroy(CUgraph hGraph) { CPU_CALL(CPU_LOCKED, destroy_graph(hGraph)); }

/* As documented: without `nodes` how many there are, with them as many as there is room for. */
static CUresult get_nodes(CUgraph graph, CUgraphNode *nodes, size_t *count) {
    CUresult result = find_graph(graph);
    if (result != CUDA_SUCCESS || count == NULL) return CUDA_ERROR_INVALID_VALUE;
    size_t known = graph->nodes.count, room = *count;
    for (size_t i = 0; nodes != NULL && i < room; i++)
        nodes[i] = i < known ? graph->nodes.nodes[i] : NULL;
    if (nodes == NULL || room > known) *count = known;
    return CUDA_SUCCESS;
}

CUresult cuGraphGetNodes(CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes) {
    CPU_CALL(CPU_LOCKED, get_nodes(hGraph, nodes, numNodes));
}

static CUresult get_edges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *data,
                          size_t *count) {
    CUresult result = find_graph(graph);
    if (result != CUDA_SUCCESS || count == NULL) return CUDA_ERROR_INVALID_VALUE;
    if ((from == NULL) != (to == NULL)) return CUDA_ERROR_INVALID_VALUE;
    size_t known = 0, room = from != NULL ? *count : 0;
    for (size_t i = 0; i < graph->nodes.count; i++) {
        CUgraphNode node = graph->nodes.nodes[i];
        for (size_t j = 0; j < node->after.count; j++, known++) {
            if (known >= room) continue;
            from[known] = node->after.nodes[j];
            to[known] = node;
            if (data != NULL) memset(&data[known], 0, sizeof *data);
        }
    }
    if (from == NULL || room > known) *count = known;
    return CUDA_SUCCESS;
}

CUresult cuGraphGetEdges_v2(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to,
                            CUgraphEdgeData *edgeData, size_t *numEdges) {
    CPU_CALL(CPU_LOCKED, get_edges(hGraph, from, to, edgeData, numEdges));
}

static CUresult get_type(CUgraphNode node, CUgraphNodeType *type) {
    if (node == NULL || type == NULL) return CUDA_ERROR_INVALID_VALUE;
    *type = node->op->kind;
    return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type) {
    CPU_CALL(CPU_LOCKED, get_type(hNode, type));
}

/* ---- executables ---- */

static void drop_exec(CUgraphExec exec) {
    if (atomic_fetch_sub(&exec->refs, 1) != 1) return;
    drop_nodes(&exec->nodes);
    cpu_fence_drop(exec->last);
    free(exec);
}

static CUresult instantiate(CUgraphExec *result_exec, CUgraph graph, unsigned long long flags) {
    CUresult result = find_graph(graph);
    if (result != CUDA_SUCCESS || result_exec == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (flags & ~(unsigned long long)KNOWN_FLAGS) return CUDA_ERROR_INVALID_VALUE;
    CUgraphExec exec = calloc(1, sizeof *exec);
    if (exec == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    exec->magic = EXEC_MAGIC;
    atomic_init(&exec->refs, 1);
    exec->context = cpu_current();
    result = share_nodes(&exec->nodes, &graph->nodes);
    if (result == CUDA_SUCCESS) *result_exec = exec;
    else drop_exec(exec);
    return result;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph,
                                     unsigned long long flags) {
    CPU_CALL(CPU_WORK, instantiate(phGraphExec, hGraph, flags));
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
        nodes->nodes[i]->op->run(nodes->nodes[i]->op, stream);
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
