/* Loading a module: eagerly, on the second lane, with all that Python wants to know of its
 * functions. */
#include "executor.h"

#include <stdlib.h>
#include <string.h>

static int read_params(struct ajit_driver *driver, struct ajit_function *function) {
    uint32_t table[2 * AJIT_MAX_PARAMS], n = 0;
    size_t offset, size;
    /* The driver answers CUDA_ERROR_INVALID_VALUE behind the last parameter. */
    while (n < AJIT_MAX_PARAMS &&
           driver->function_param(function->handle, n, &offset, &size) == 0) {
        table[2 * n] = (uint32_t)offset;
        table[2 * n + 1] = (uint32_t)size;
        function->param_bytes = (uint32_t)(offset + size);
        n++;
    }
    function->param_offsets = malloc((2 * n + 1) * sizeof *table);
    if (!function->param_offsets) return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(function->param_offsets, table, 2 * n * sizeof *table);
    function->param_count = n;
    return CUDA_SUCCESS;
}

static int load_function(struct ajit_driver *driver, CUmodule module, const char *name,
                         struct ajit_function *function) {
    const struct {
        int attribute;
        int32_t *value;
    } wanted[] = {
        {CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, &function->max_threads},
        {CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, &function->shared_bytes},
        {CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, &function->local_bytes},
        {CU_FUNC_ATTRIBUTE_NUM_REGS, &function->registers},
        {CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, &function->max_dynamic_shared_bytes},
    };
    int code = driver->module_function(&function->handle, module, name);
    /* Forced: the driver loads lazily, and a first launch that has to load waits for the whole
     * device, for ever if a running kernel waits for that launch. */
    if (!code) code = driver->function_load(function->handle);
    for (size_t i = 0; !code && i < sizeof wanted / sizeof *wanted; i++)
        code = driver->function_attribute(wanted[i].value, wanted[i].attribute, function->handle);
    return code ? code : read_params(driver, function);
}

/* Lets the kernel use all the shared memory that the device has for those who ask. */
static int raise_shared_limit(struct ajit_executor *executor, struct ajit_function *function) {
    int room = executor->info.shared_optin_bytes - function->shared_bytes;
    if (room <= function->max_dynamic_shared_bytes) return CUDA_SUCCESS;
    int code = executor->driver.function_set_attribute(
        function->handle, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, room);
    if (!code) function->max_dynamic_shared_bytes = room;
    return code;
}

static int load_functions(struct ajit_executor *executor, struct ajit_ticket *ticket,
                          const struct ajit_load *load) {
    const char *const *names = (const char *const *)(uintptr_t)load->names;
    struct ajit_resource *resource = ticket->made;
    CUmodule module = (CUmodule)(uintptr_t)resource->pointer;
    resource->functions = calloc(load->count ? load->count : 1, sizeof *resource->functions);
    if (!resource->functions) return CUDA_ERROR_OUT_OF_MEMORY;
    resource->size = load->count;
    for (uint64_t i = 0; i < load->count; i++) {
        ticket->detail = 1 + i;
        int code = load_function(&executor->driver, module, names[i], &resource->functions[i]);
        if (!code) code = raise_shared_limit(executor, &resource->functions[i]);
        if (code) return code;
    }
    return CUDA_SUCCESS;
}

static int load_image(struct ajit_executor *executor, CUmodule *module, const void *image) {
    int code = executor->driver.module_load(module, image);
    if (code == CUDA_ERROR_OUT_OF_MEMORY) {
        ajit_pool_give_back(executor); /* code needs device memory as well */
        code = executor->driver.module_load(module, image);
    }
    return code;
}

static int load(struct ajit_executor *executor, struct ajit_ticket *ticket,
                const struct ajit_load *op) {
    struct ajit_resource *resource = ajit_resource_make(executor, ticket, AJIT_MODULE);
    if (!resource) return CUDA_ERROR_OUT_OF_MEMORY;
    CUmodule module = NULL;
    int code = load_image(executor, &module, (const void *)(uintptr_t)op->image);
    ticket->detail = 0;
    if (code) {
        ajit_resource_unmake(executor, ticket);
        return code;
    }
    resource->pointer = (uint64_t)(uintptr_t)module;
    code = load_functions(executor, ticket, op);
    if (code) {
        ajit_resource_keep_back(executor, resource);
        ticket->made = NULL;
        ajit_resource_free_now(executor, resource);
        return code;
    }
    atomic_fetch_add_explicit(&executor->counters.loads, 1, memory_order_relaxed);
    return CUDA_SUCCESS;
}

int ajit_resource_load(struct ajit_executor *executor, struct ajit_ticket *ticket,
                       const struct ajit_load *op) {
    executor->load_began_ns = ajit_now_ns();
    int code = load(executor, ticket, op);
    executor->load_ended_ns = ajit_now_ns();
    return code;
}
