/* Fills the driver table by name. The rules R1 to R5 stand in executor.h. */
#include "driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

struct symbol {
    const char *name;
    size_t offset;
    int optional;
};

#define SYMBOL(field, name) {name, offsetof(struct ajit_driver, field), 0}
#define OPTIONAL(field, name) {name, offsetof(struct ajit_driver, field), 1}

/* The version suffixes are what cuda.h of CUDA 13 maps the plain names to. The plain symbols of
 * the driver are older functions with other signatures. */
static const struct symbol SYMBOLS[] = {
    SYMBOL(init, "cuInit"),
    SYMBOL(driver_version, "cuDriverGetVersion"),
    SYMBOL(device_count, "cuDeviceGetCount"),
    SYMBOL(device_get, "cuDeviceGet"),
    SYMBOL(device_name, "cuDeviceGetName"),
    SYMBOL(device_total_memory, "cuDeviceTotalMem_v2"),
    SYMBOL(device_attribute, "cuDeviceGetAttribute"),
    SYMBOL(context_retain, "cuDevicePrimaryCtxRetain"),
    SYMBOL(context_release, "cuDevicePrimaryCtxRelease_v2"),
    SYMBOL(context_set_current, "cuCtxSetCurrent"),
    SYMBOL(stream_create, "cuStreamCreateWithPriority"),
    SYMBOL(stream_destroy, "cuStreamDestroy_v2"),
    SYMBOL(stream_query, "cuStreamQuery"),
    SYMBOL(memory_alloc, "cuMemAlloc_v2"),
    SYMBOL(memory_free, "cuMemFree_v2"),
    SYMBOL(host_alloc, "cuMemHostAlloc"),
    SYMBOL(host_free, "cuMemFreeHost"),
    SYMBOL(host_register, "cuMemHostRegister_v2"),
    SYMBOL(host_unregister, "cuMemHostUnregister"),
    SYMBOL(copy_to_device, "cuMemcpyHtoDAsync_v2"),
    SYMBOL(copy_to_host, "cuMemcpyDtoHAsync_v2"),
    SYMBOL(copy_on_device, "cuMemcpyDtoDAsync_v2"),
    SYMBOL(fill, "cuMemsetD8Async"),
    SYMBOL(module_load, "cuModuleLoadData"),
    SYMBOL(module_unload, "cuModuleUnload"),
    SYMBOL(module_function, "cuModuleGetFunction"),
    SYMBOL(function_load, "cuFuncLoad"),
    SYMBOL(function_param, "cuFuncGetParamInfo"),
    SYMBOL(function_attribute, "cuFuncGetAttribute"),
    SYMBOL(function_set_attribute, "cuFuncSetAttribute"),
    SYMBOL(launch, "cuLaunchKernel"),
    SYMBOL(launch_host_function, "cuLaunchHostFunc"),
    SYMBOL(exchange_capture_mode, "cuThreadExchangeStreamCaptureMode"),
    SYMBOL(stream_wait_event, "cuStreamWaitEvent"),
    SYMBOL(event_create, "cuEventCreate"),
    SYMBOL(event_destroy, "cuEventDestroy_v2"),
    SYMBOL(event_record, "cuEventRecord"),
    SYMBOL(event_elapsed, "cuEventElapsedTime_v2"),
    SYMBOL(copy_anywhere, "cuMemcpyAsync"),
    SYMBOL(stream_is_capturing, "cuStreamIsCapturing"),
    SYMBOL(stream_begin_capture, "cuStreamBeginCapture_v2"),
    SYMBOL(stream_end_capture, "cuStreamEndCapture"),
    SYMBOL(graph_destroy, "cuGraphDestroy"),
    OPTIONAL(copy_batch, "cuMemcpyBatchAsync_v2"),
    OPTIONAL(graph_instantiate, "cuGraphInstantiateWithFlags"),
    OPTIONAL(graph_launch, "cuGraphLaunch"),
    OPTIONAL(graph_exec_destroy, "cuGraphExecDestroy"),
    OPTIONAL(pool_create, "cuMemPoolCreate"),
    OPTIONAL(pool_destroy, "cuMemPoolDestroy"),
    OPTIONAL(pool_trim, "cuMemPoolTrimTo"),
    OPTIONAL(pool_set, "cuMemPoolSetAttribute"),
    OPTIONAL(pool_get, "cuMemPoolGetAttribute"),
    OPTIONAL(pool_alloc, "cuMemAllocFromPoolAsync"),
    OPTIONAL(pool_free, "cuMemFreeAsync"),
    OPTIONAL(launch_with, "cuLaunchKernelEx"),
};

int ajit_driver_open(struct ajit_driver *driver, const char *path, char *error,
                     size_t error_bytes) {
    /* RTLD_LOCAL: a CPU driver in this process must never resolve another library's cu* names.
     * Never closed: drivers keep threads, and unmapping their code would crash those. */
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(error, error_bytes, "%s", dlerror());
        return -1;
    }
    for (size_t i = 0; i < sizeof SYMBOLS / sizeof *SYMBOLS; i++) {
        void *function = dlsym(library, SYMBOLS[i].name);
        if (!function && !SYMBOLS[i].optional) {
            snprintf(error, error_bytes, "%s has no function %s: the driver is too old", path,
                     SYMBOLS[i].name);
            return -1;
        }
        memcpy((char *)driver + SYMBOLS[i].offset, &function, sizeof function);
    }
    return 0;
}

int ajit_driver_is_sticky(CUresult code) {
    enum { USABLE, STICKY };
    switch (code) {
#define ERROR(name, number, kind, text) \
    case CUDA_ERROR_##name: return kind;
#include "../table.def"
    default: return USABLE;
    }
}
