/* Launches: the checks that NVIDIA's driver makes when the call is made, and the operation in the
 * stream.
 *
 * A launch that is refused has submitted nothing. A kernel that fails (trap, assert, deadlock)
 * makes the device's error sticky, as on a GPU.
 */
#include "driver.h"

#include <string.h>

enum { MAX_BLOCK_Z = 64, MAX_GRID_YZ = 65535, MAX_GRID_X = 2147483647 };
/* Blocks: what every GPU that has clusters allows, and what one may have for a function that says
 * so. */
enum { MAX_PORTABLE_CLUSTER = 8, MAX_CLUSTER = 16 };

typedef struct launch_op {
    cpu_op op;
    cpu_grid grid;
    void *pointers[]; /* to each parameter in the packed copy, which follows them */
} launch_op;

static void run_launch(cpu_op *base, CUstream stream) {
    launch_op *op = (launch_op *)base;
    CUresult result = cpu_injected("device:launch");
    if (result == CUDA_SUCCESS) result = cpu_grid_run(&op->grid);
    if (result != CUDA_SUCCESS) cpu_lose(stream->context, result);
}

static bool block_fits(const unsigned *block) {
    if (block[0] == 0 || block[1] == 0 || block[2] == 0) return false;
    if (block[0] > AJIT_CPU_MAX_THREADS || block[1] > AJIT_CPU_MAX_THREADS ||
        block[2] > MAX_BLOCK_Z)
        return false;
    return (uint64_t)block[0] * block[1] * block[2] <= AJIT_CPU_MAX_THREADS;
}

static bool grid_fits(const unsigned *grid) {
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0) return false;
    return grid[0] <= MAX_GRID_X && grid[1] <= MAX_GRID_YZ && grid[2] <= MAX_GRID_YZ;
}

/* A kernel cannot see its cluster here (what it would use for that is an error when it is
 * compiled), so the shape is checked as NVIDIA's driver does and changes nothing. */
static CUresult check_cluster(const unsigned *cluster, const unsigned *grid, unsigned limit) {
    uint64_t blocks = 1;
    for (int i = 0; i < 3; i++) {
        if (cluster[i] == 0 || cluster[i] > limit || grid[i] % cluster[i] != 0)
            return CUDA_ERROR_INVALID_CLUSTER_SIZE;
        blocks *= cluster[i];
    }
    return blocks <= limit ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CLUSTER_SIZE;
}

static CUresult check_attribute(const CUlaunchAttribute *attribute, const unsigned *grid,
                                unsigned max_cluster) {
    switch (attribute->id) {
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
        return check_cluster(&attribute->value.clusterDim.x, grid, max_cluster);
    case CU_LAUNCH_ATTRIBUTE_COOPERATIVE: /* blocks do not wait for each other here */
        return attribute->value.cooperative == 0 ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
    case CU_LAUNCH_ATTRIBUTE_IGNORE:
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
    case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: /* may overlap, need not */
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: return CUDA_SUCCESS;
    default: return CUDA_ERROR_NOT_SUPPORTED;
    }
}

static CUresult check(const CUlaunchConfig *config, CUfunction function) {
    CUresult result = cpu_function_find(function);
    if (result != CUDA_SUCCESS) return result;
    if (!block_fits(&config->blockDimX) || !grid_fits(&config->gridDimX))
        return CUDA_ERROR_INVALID_VALUE;
    if (config->sharedMemBytes > (unsigned)function->max_dynamic_shared)
        return CUDA_ERROR_INVALID_VALUE;
    if (config->numAttrs > 0 && config->attrs == NULL) return CUDA_ERROR_INVALID_VALUE;
    unsigned max_cluster = function->large_clusters ? MAX_CLUSTER : MAX_PORTABLE_CLUSTER;
    for (unsigned i = 0; i < config->numAttrs && result == CUDA_SUCCESS; i++)
        result = check_attribute(&config->attrs[i], &config->gridDimX, max_cluster);
    return result;
}

/* The packed buffer of the `extra` way to pass parameters; NULL if it is not a well-formed one. */
static const char *packed_buffer(void **extra, size_t wanted) {
    const char *buffer = NULL;
    size_t size = 0;
    for (; extra != NULL && extra[0] != CU_LAUNCH_PARAM_END; extra += 2) {
        if (extra[0] == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = extra[1];
        else if (extra[0] == CU_LAUNCH_PARAM_BUFFER_SIZE && extra[1] != NULL)
            size = *(size_t *)extra[1];
        else return NULL;
    }
    return size >= wanted ? buffer : NULL;
}

static CUresult copy_params(launch_op *op, void **params, void **extra) {
    const struct ajit_cpu_kernel *kernel = op->grid.kernel;
    char *copy = (char *)&op->pointers[kernel->param_count];
    copy += -(uintptr_t)copy % 16; /* the packed offsets assume that it begins aligned */
    const char *buffer = params == NULL ? packed_buffer(extra, kernel->param_bytes) : NULL;
    if (kernel->param_count > 0 && params == NULL && buffer == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < kernel->param_count; i++) {
        const struct ajit_cpu_param *param = &kernel->params[i];
        const void *from = params != NULL ? params[i] : buffer + param->offset;
        if (from == NULL) return CUDA_ERROR_INVALID_VALUE;
        op->pointers[i] = memcpy(copy + param->offset, from, param->size);
    }
    op->grid.params = op->pointers;
    return CUDA_SUCCESS;
}

static CUresult launch(const CUlaunchConfig *config, CUfunction function, void **params,
                       void **extra) {
    CUstream stream;
    if (config == NULL || (params != NULL && extra != NULL)) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = cpu_stream_find(config->hStream, &stream);
    if (result == CUDA_SUCCESS) result = check(config, function);
    if (result != CUDA_SUCCESS) return result;
    const struct ajit_cpu_kernel *kernel = function->kernel;
    size_t bytes = kernel->param_count * sizeof(void *) + kernel->param_bytes + 16;
    launch_op *op = cpu_op_new(sizeof *op + bytes, run_launch, cpu_op_free);
    if (op == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    op->op.kind = CU_GRAPH_NODE_TYPE_KERNEL;
    op->grid.kernel = kernel;
    op->grid.shared_bytes = config->sharedMemBytes;
    memcpy(op->grid.grid_dim, &config->gridDimX, sizeof op->grid.grid_dim);
    memcpy(op->grid.block_dim, &config->blockDimX, sizeof op->grid.block_dim);
    result = copy_params(op, params, extra);
    if (result == CUDA_SUCCESS) return cpu_submit(stream, &op->op);
    cpu_op_free(&op->op);
    return result;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams,
                          void **extra) {
    CPU_CALL(CPU_WORK, launch(config, f, kernelParams, extra));
}

CUresult cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                        unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
                        unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
                        void **kernelParams, void **extra) {
    CUlaunchConfig config = {gridDimX,  gridDimY,       gridDimZ, blockDimX, blockDimY,
                             blockDimZ, sharedMemBytes, hStream,  NULL,      0};
    CPU_CALL(CPU_WORK, launch(&config, f, kernelParams, extra));
}
