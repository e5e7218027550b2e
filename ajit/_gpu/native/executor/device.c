/* Opens driver, device, context and stream, on the CUDA thread. */
#include "executor.h"

#include <pthread.h>
#include <stdio.h>

static int read_device(struct ajit_executor *executor) {
    struct ajit_driver *driver = &executor->driver;
    struct ajit_device_info *info = &executor->info;
    size_t total = 0;
    const struct {
        int attribute;
        int32_t *value;
    } wanted[] = {
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, &info->major},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, &info->minor},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, &info->max_threads},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, &info->max_block[0]},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X + 1, &info->max_block[1]},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X + 2, &info->max_block[2]},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, &info->max_grid[0]},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X + 1, &info->max_grid[1]},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X + 2, &info->max_grid[2]},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, &info->shared_bytes},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, &info->shared_optin_bytes},
        {CU_DEVICE_ATTRIBUTE_WARP_SIZE, &info->warp_size},
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &info->multiprocessors},
        {CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, &info->clusters},
        {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, &info->memory_pools},
        {CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, &info->pci[0]},
        {CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, &info->pci[1]},
        {CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, &info->pci[2]},
    };
    int code = driver->device_name(info->name, sizeof info->name, executor->device);
    if (!code) code = driver->device_total_memory(&total, executor->device);
    info->total_memory_bytes = total;
    for (size_t i = 0; !code && i < sizeof wanted / sizeof *wanted; i++)
        code = driver->device_attribute(wanted[i].value, wanted[i].attribute, executor->device);
    return code;
}

static int open_context(struct ajit_executor *executor) {
    struct ajit_driver *driver = &executor->driver;
    int mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    int code = driver->context_retain(&executor->context, executor->device);
    if (code) return code;
    code = driver->context_set_current(executor->context);
    if (!code) code = driver->stream_create(&executor->stream, CU_STREAM_NON_BLOCKING, 0);
    /* A load or a free here must not break another library's capture on another stream. */
    if (!code) code = driver->exchange_capture_mode(&mode);
    if (code) driver->context_release(executor->device);
    else ajit_pool_open(executor);
    return code;
}

/* What open_context and the operations made for the executor itself. Nothing is in flight. */
void ajit_device_close(struct ajit_executor *executor) {
    struct ajit_driver *driver = &executor->driver;
    ajit_pool_close(executor);
    if (executor->join_event) driver->event_destroy(executor->join_event);
    if (executor->capture_stream) driver->stream_destroy(executor->capture_stream);
    driver->stream_destroy(executor->stream);
}

/* Opens driver, device, context and stream on the calling thread. Returns 0, a driver code, or -1
 * if the library itself cannot be used; `error` then says why. */
int ajit_serve_begin(struct ajit_executor *executor, const char *thread_name) {
    struct ajit_driver *driver = &executor->driver;
    int count = 0;
    pthread_setname_np(pthread_self(), thread_name); /* fails only for a name above 15 characters */
    if (ajit_driver_open(driver, executor->library, executor->error, sizeof executor->error))
        return -1;
    int code = driver->init(0);
    if (!code) code = driver->driver_version(&executor->info.driver_version);
    if (!code) code = driver->device_count(&count);
    if (!code && executor->options.ordinal >= count) {
        snprintf(executor->error, sizeof executor->error, "there are %d devices", count);
        return CUDA_ERROR_NO_DEVICE;
    }
    if (!code) code = driver->device_get(&executor->device, executor->options.ordinal);
    if (!code) code = read_device(executor);
    if (!code) code = open_context(executor);
    if (!code) ajit_watchdog_start(executor);
    return code;
}
