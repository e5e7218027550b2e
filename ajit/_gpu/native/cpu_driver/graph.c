/* Graphs: what a capture recorded, and what can be launched again and again.
 *
 * A node keeps one operation that is run but never used up, and the nodes it came after. A graph
 * owns its nodes; an executable (graph_exec.c) shares them. Handles and lists are guarded by the
 * driver lock; the count of a node's owners is atomic, as streams drop executables without the
 * lock.
 */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

static const uint64_t GRAPH_MAGIC = 0x616a69742d677270; /* "ajit-grp" */

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

void cpu_graph_drop(cpu_tips *nodes) {
    for (size_t i = 0; i < nodes->count; i++) drop_node(nodes->nodes[i]);
    cpu_tips_clear(nodes);
}

/* ---- graphs ---- */

CUgraph cpu_graph_new(void) {
    CUgraph graph = calloc(1, sizeof *graph);
    if (graph != NULL) graph->magic = GRAPH_MAGIC;
    return graph;
}

void cpu_graph_delete(CUgraph graph) {
    cpu_graph_drop(&graph->nodes);
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

CUresult cpu_graph_share(cpu_tips *to, CUgraph graph) {
    CUresult result = find_graph(graph);
    for (size_t i = 0; result == CUDA_SUCCESS && i < graph->nodes.count; i++) {
        result = append(to, graph->nodes.nodes[i]); /* all different: no search */
        if (result == CUDA_SUCCESS) atomic_fetch_add(&graph->nodes.nodes[i]->refs, 1);
    }
    return result;
}

void cpu_graph_run(CUgraphNode node, CUstream stream) { node->op->run(node->op, stream); }

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
