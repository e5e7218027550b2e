/* The driver API's allocation functions and pointer queries. */
#include "driver.h"

/* ---- device memory ---- */

static CUresult allocate(CUdeviceptr *dptr, size_t bytes) {
    uintptr_t address;
    if (dptr == NULL) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = cpu_memory_new(cpu_current(), CPU_DEVICE_MEMORY, bytes, &address);
    if (result == CUDA_SUCCESS) *dptr = address;
    return result;
}

CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize) {
    CPU_CALL(CPU_SETUP, allocate(dptr, bytesize));
}

/* Waits for the whole device first, as NVIDIA's does: no work may still use the memory. */
static CUresult free_device(CUdeviceptr address) {
    if (address == 0) return CUDA_SUCCESS;
    CUresult result = cpu_context_wait(cpu_current());
    if (result != CUDA_SUCCESS) return result;
    cpu_lock();
    result = cpu_memory_delete(address, CPU_DEVICE_MEMORY);
    cpu_unlock();
    return result;
}

CUresult cuMemFree_v2(CUdeviceptr dptr) { CPU_CALL(CPU_FREE | CPU_UNSAFE, free_device(dptr)); }

/* ---- in stream order ---- */

static CUresult allocate_from(CUmemoryPool pool, CUdeviceptr *dptr, size_t bytes) {
    uintptr_t address;
    if (dptr == NULL) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = cpu_pool_allocate(pool, bytes, &address);
    if (result == CUDA_SUCCESS) *dptr = address;
    return result;
}

/* `pool` NULL means the current pool of the stream's device. */
static CUresult allocate_in_stream(CUmemoryPool pool, CUdeviceptr *dptr, size_t bytes,
                                   CUstream handle) {
    CUstream stream;
    cpu_lock();
    CUresult result = cpu_stream_find(handle, &stream);
    if (result == CUDA_SUCCESS && stream->capture != NULL) result = CUDA_ERROR_NOT_SUPPORTED;
    if (result == CUDA_SUCCESS && pool == NULL) pool = cpu_pool_current(stream->context->device);
    if (result == CUDA_SUCCESS) result = allocate_from(pool, dptr, bytes);
    bool retry = result == CUDA_ERROR_OUT_OF_MEMORY && cpu_stream_busy(stream);
    if (retry) cpu_stream_share(stream);
    cpu_unlock();
    if (!retry) return result;
    cpu_stream_wait(stream); /* frees that are queued there may make room, as in a memory pool */
    cpu_stream_drop(stream);
    cpu_lock();
    result = allocate_from(pool, dptr, bytes);
    cpu_unlock();
    return result;
}

/* The memory exists at once, which is earlier than promised and otherwise the same. */
CUresult cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream) {
    CPU_CALL(CPU_FREE, allocate_in_stream(NULL, dptr, bytesize, hStream));
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool,
                                 CUstream hStream) {
    if (pool == NULL) return CUDA_ERROR_INVALID_VALUE;
    CPU_CALL(CPU_FREE, allocate_in_stream(pool, dptr, bytesize, hStream));
}

static CUresult free_in_stream(CUdeviceptr address, CUstream handle) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (result != CUDA_SUCCESS || address == 0) return result;
    if (stream->capture != NULL) return CUDA_ERROR_NOT_SUPPORTED; /* graphs own no memory here */
    const cpu_range *range = cpu_memory_at(address);
    bool pinned_pool = range != NULL && range->kind == CPU_PINNED_MEMORY && range->pool != NULL;
    if (range == NULL || range->start != address ||
        (range->kind != CPU_DEVICE_MEMORY && !pinned_pool))
        return CUDA_ERROR_INVALID_VALUE;
    return cpu_submit_delete(stream, address, range->kind);
}

CUresult cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream) {
    CPU_CALL(CPU_WORK, free_in_stream(dptr, hStream));
}

static CUresult get_info(size_t *available, size_t *total) {
    uint64_t limit = cpu_device_memory_bytes(), used = cpu_memory_used(cpu_current());
    if (available == NULL || total == NULL) return CUDA_ERROR_INVALID_VALUE;
    *total = limit;
    *available = used < limit ? limit - used : 0;
    return CUDA_SUCCESS;
}

CUresult cuMemGetInfo_v2(size_t *free, size_t *total) { CPU_CALL(CPU_WORK, get_info(free, total)); }

static CUresult get_range(CUdeviceptr *base, size_t *size, CUdeviceptr address) {
    const cpu_range *range = cpu_memory_at(address);
    if (range == NULL) return CUDA_ERROR_NOT_FOUND;
    if (base != NULL) *base = range->start;
    if (size != NULL) *size = range->bytes;
    return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr) {
    CPU_CALL(CPU_WORK, get_range(pbase, psize, dptr));
}

/* ---- pinned host memory ---- */

enum { HOST_ALLOC_FLAGS = 7, HOST_REGISTER_FLAGS = 15 };

static CUresult allocate_host(void **pp, size_t bytes, unsigned flags) {
    uintptr_t address;
    if (pp == NULL || (flags & ~(unsigned)HOST_ALLOC_FLAGS)) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = cpu_memory_new(cpu_current(), CPU_PINNED_MEMORY, bytes, &address);
    if (result == CUDA_SUCCESS) *pp = (void *)address;
    return result;
}

CUresult cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags) {
    CPU_CALL(CPU_SETUP, allocate_host(pp, bytesize, Flags));
}

CUresult cuMemAllocHost_v2(void **pp, size_t bytesize) {
    CPU_CALL(CPU_SETUP, allocate_host(pp, bytesize, 0));
}

static CUresult free_host(void *address) {
    CUresult result = cpu_context_wait(cpu_current());
    if (result != CUDA_SUCCESS) return result;
    cpu_lock();
    result = cpu_memory_delete((uintptr_t)address, CPU_PINNED_MEMORY);
    cpu_unlock();
    return result;
}

CUresult cuMemFreeHost(void *p) { CPU_CALL(CPU_FREE | CPU_UNSAFE, free_host(p)); }

static CUresult register_host(void *address, size_t bytes, unsigned flags) {
    if (address == NULL || bytes == 0 || (flags & ~(unsigned)HOST_REGISTER_FLAGS))
        return CUDA_ERROR_INVALID_VALUE;
    if (cpu_memory_meets((uintptr_t)address, bytes))
        return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    return cpu_memory_add(cpu_current(), CPU_REGISTERED_MEMORY, (uintptr_t)address, bytes);
}

CUresult cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags) {
    CPU_CALL(CPU_SETUP, register_host(p, bytesize, Flags));
}

static CUresult unregister_host(void *address) {
    CUresult result = cpu_memory_delete((uintptr_t)address, CPU_REGISTERED_MEMORY);
    return result == CUDA_SUCCESS ? result : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

CUresult cuMemHostUnregister(void *p) { CPU_CALL(CPU_SETUP, unregister_host(p)); }

static CUresult get_device_pointer(CUdeviceptr *pdptr, void *address, unsigned flags) {
    if (pdptr == NULL || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (cpu_memory_at((uintptr_t)address) == NULL) return CUDA_ERROR_INVALID_VALUE;
    *pdptr = (uintptr_t)address;
    return CUDA_SUCCESS;
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *pdptr, void *p, unsigned int Flags) {
    CPU_CALL(CPU_WORK, get_device_pointer(pdptr, p, Flags));
}

/* ---- what a pointer is ---- */

enum { UNKNOWN_DEVICE = -2 };

static CUresult get_range_attribute(void *data, unsigned attribute, CUdeviceptr address,
                                    const cpu_range *range) {
    bool device = range->kind == CPU_DEVICE_MEMORY;
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: *(CUcontext *)data = range->context; break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)data = device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
        break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr *)data = address; break;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        if (device) return CUDA_ERROR_INVALID_VALUE;
        *(void **)data = (void *)(uintptr_t)address;
        break;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: *(unsigned *)data = 0; break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)data = range->context->device; break;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: *(CUdeviceptr *)data = range->start; break;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: *(size_t *)data = range->bytes; break;
    case CU_POINTER_ATTRIBUTE_MAPPED: *(unsigned *)data = 1; break;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES: *(uint64_t *)data = 0; break;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE: *(CUmemoryPool *)data = range->pool; break;
    default: return CUDA_ERROR_NOT_SUPPORTED;
    }
    return CUDA_SUCCESS;
}

static CUresult get_attribute(void *data, unsigned attribute, CUdeviceptr address) {
    const cpu_range *range = cpu_memory_at(address);
    if (data == NULL || range == NULL) return CUDA_ERROR_INVALID_VALUE;
    return get_range_attribute(data, attribute, address, range);
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr) {
    CPU_CALL(CPU_WORK, get_attribute(data, attribute, ptr));
}

/* Which value says "not a pointer of the driver's": -2 for a device, 0 for everything else. */
static void set_unknown(void *data, unsigned attribute) {
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)data = UNKNOWN_DEVICE; break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_MAPPED: *(unsigned *)data = 0; break;
    default: *(uint64_t *)data = 0;
    }
}

/* As documented, a pointer or an attribute that is not known is no error here. */
static CUresult get_attributes(unsigned count, const unsigned *attributes, void **data,
                               CUdeviceptr address) {
    const cpu_range *range = cpu_memory_at(address);
    if (attributes == NULL || data == NULL) return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < count; i++) {
        if (data[i] == NULL) return CUDA_ERROR_INVALID_VALUE;
        CUresult result = CUDA_ERROR_INVALID_VALUE;
        if (range != NULL) result = get_range_attribute(data[i], attributes[i], address, range);
        if (result != CUDA_SUCCESS) set_unknown(data[i], attributes[i]);
    }
    return CUDA_SUCCESS;
}

CUresult cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute *attributes,
                                void **data, CUdeviceptr ptr) {
    CPU_CALL(CPU_WORK, get_attributes(numAttributes, attributes, data, ptr));
}
