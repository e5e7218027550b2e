/* Launches: plain ones by the plain call, those with attributes by the one that takes
 * attributes. */
#include "executor.h"

/* Blocks in a cluster that every GPU with clusters can have; more must be allowed for each
 * function. */
enum { PORTABLE_CLUSTER = 8 };

static int launch_plainly(struct ajit_driver *driver, CUfunction function, CUstream stream,
                          const struct ajit_shape *shape, void **params) {
    return driver->launch(function, shape->grid[0], shape->grid[1], shape->grid[2], shape->block[0],
                          shape->block[1], shape->block[2], shape->shared_bytes, stream, params,
                          NULL);
}

static uint32_t list_attributes(const struct ajit_shape *shape,
                                struct ajit_launch_attribute *list) {
    uint32_t count = 0;
    if (shape->flags & AJIT_CLUSTERED)
        list[count++] = (struct ajit_launch_attribute){
            .id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            .value.cluster = {shape->cluster[0], shape->cluster[1], shape->cluster[2]},
        };
    if (shape->flags & AJIT_PROGRAMMATIC)
        list[count++] = (struct ajit_launch_attribute){
            .id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            .value.number = 1,
        };
    if (shape->flags & AJIT_PRIORITISED)
        list[count++] = (struct ajit_launch_attribute){
            .id = CU_LAUNCH_ATTRIBUTE_PRIORITY,
            .value.number = shape->priority,
        };
    return count;
}

/* Large clusters are allowed for a function once, before the first launch that has one. Not when it
 * is loaded: hardly any kernel wants them. */
static int allow_cluster(struct ajit_driver *driver, struct ajit_function *function,
                         const struct ajit_shape *shape) {
    uint64_t blocks = (uint64_t)shape->cluster[0] * shape->cluster[1] * shape->cluster[2];
    if (!(shape->flags & AJIT_CLUSTERED) || blocks <= PORTABLE_CLUSTER || function->large_clusters)
        return CUDA_SUCCESS;
    int code = driver->function_set_attribute(
        function->handle, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1);
    if (!code) function->large_clusters = 1;
    return code;
}

static int launch_with_attributes(struct ajit_driver *driver, struct ajit_function *function,
                                  CUstream stream, const struct ajit_shape *shape, void **params) {
    struct ajit_launch_attribute attributes[3];
    struct ajit_launch_config config = {
        .grid = {shape->grid[0], shape->grid[1], shape->grid[2]},
        .block = {shape->block[0], shape->block[1], shape->block[2]},
        .shared_bytes = shape->shared_bytes,
        .stream = stream,
        .attributes = attributes,
        .attribute_count = list_attributes(shape, attributes),
    };
    int code =
        driver->launch_with ? allow_cluster(driver, function, shape) : CUDA_ERROR_NOT_SUPPORTED;
    return code ? code : driver->launch_with(&config, function->handle, params, NULL);
}

int ajit_launch_kernel(struct ajit_executor *executor, struct ajit_ticket *ticket,
                       const struct ajit_launch *op) {
    struct ajit_function *function = (struct ajit_function *)(uintptr_t)op->function;
    unsigned char *arguments = (unsigned char *)(op + 1);
    void *params[AJIT_MAX_PARAMS];
    for (uint32_t i = 0; i < function->param_count; i++)
        params[i] = arguments + function->param_offsets[2 * i];
    atomic_fetch_add_explicit(&executor->counters.launches, 1, memory_order_relaxed);
    if (!op->shape.flags)
        return launch_plainly(&executor->driver, function->handle, ticket->stream, &op->shape,
                              params);
    return launch_with_attributes(&executor->driver, function, ticket->stream, &op->shape, params);
}
