/* Memory pools: an account over ordinary allocations, with a limit and high-water marks.
 *
 * A pool keeps nothing back: memory that is freed is gone, so what is reserved is what is used and
 * trimming has nothing to do. The reuse attributes and the release threshold are kept and change
 * nothing. Each device has a default pool and a current one, which cuMemAllocAsync takes. A
 * destroyed pool goes when its last allocation does. Sharing pools with other processes is not
 * supported: a handle type other than none is refused. Everything is guarded by the driver lock.
 */
#include "cpu_driver.h"

#include <stdlib.h>

static const uint64_t MAGIC = 0x616a69742d706f6c; /* "ajit-pol" */
enum { SETTABLE = CU_MEMPOOL_ATTR_RELEASE_THRESHOLD };

struct CUmemPoolHandle_st {
    uint64_t magic;
    int device;
    enum cpu_kind kind;
    size_t max_bytes; /* 0: only the device's own limit */
    uint64_t used, used_high, reserved_high;
    uint64_t settings[SETTABLE + 1];
    unsigned access[CPU_MAX_DEVICES];
    uint64_t allocations;
};

static struct CUmemPoolHandle_st defaults[CPU_MAX_DEVICES];
static CUmemoryPool chosen[CPU_MAX_DEVICES];

static void set_up(CUmemoryPool pool, int device, enum cpu_kind kind, size_t max_bytes) {
    *pool = (struct CUmemPoolHandle_st){.magic = MAGIC, .device = device, .kind = kind,
                                        .max_bytes = max_bytes, .settings = {0, 1, 1, 1, 0}};
    for (int i = 0; i < CPU_MAX_DEVICES; i++)
        pool->access[i] = kind == CPU_PINNED_MEMORY || i == device ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                                                   : CU_MEM_ACCESS_FLAGS_PROT_NONE;
}

static CUmemoryPool default_pool(int device) {
    CUmemoryPool pool = &defaults[device];
    if (pool->magic == 0) set_up(pool, device, CPU_DEVICE_MEMORY, 0);
    return pool;
}

CUmemoryPool cpu_pool_current(int device) {
    return chosen[device] != NULL ? chosen[device] : default_pool(device);
}

static CUresult find(CUmemoryPool pool) {
    return pool != NULL && pool->magic == MAGIC ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static bool known(CUdevice dev) { return dev >= 0 && dev < cpu_device_count(); }

/* ---- allocations ---- */

CUresult cpu_pool_allocate(CUmemoryPool pool, size_t bytes, uintptr_t *address) {
    CUresult result = find(pool);
    if (result != CUDA_SUCCESS) return result;
    if (pool->max_bytes > 0 && bytes > pool->max_bytes - pool->used) return CUDA_ERROR_OUT_OF_MEMORY;
    CUcontext context = cpu_context(pool->device);
    result = cpu_memory_new_in(pool, context, pool->kind, bytes, address);
    if (result != CUDA_SUCCESS) return result;
    pool->allocations++;
    pool->used += bytes;
    if (pool->used > pool->used_high) pool->used_high = pool->used;
    if (pool->used > pool->reserved_high) pool->reserved_high = pool->used;
    return CUDA_SUCCESS;
}

void cpu_pool_release(CUmemoryPool pool, size_t bytes) {
    pool->used -= bytes;
    if (--pool->allocations == 0 && pool->magic == 0) free(pool);
}

/* ---- which pool ---- */

static CUresult get_default(CUmemoryPool *pool, CUdevice dev) {
    if (pool == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (!known(dev)) return CUDA_ERROR_INVALID_DEVICE;
    *pool = default_pool(dev);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev) {
    CPU_CALL(CPU_LOCKED, get_default(pool_out, dev));
}

static CUresult get_current(CUmemoryPool *pool, CUdevice dev) {
    if (pool == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (!known(dev)) return CUDA_ERROR_INVALID_DEVICE;
    *pool = cpu_pool_current(dev);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev) {
    CPU_CALL(CPU_LOCKED, get_current(pool, dev));
}

static CUresult set_current(CUdevice dev, CUmemoryPool pool) {
    if (!known(dev)) return CUDA_ERROR_INVALID_DEVICE;
    if (find(pool) != CUDA_SUCCESS || pool->device != dev || pool->kind != CPU_DEVICE_MEMORY)
        return CUDA_ERROR_INVALID_VALUE;
    chosen[dev] = pool;
    return CUDA_SUCCESS;
}

CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool) {
    CPU_CALL(CPU_LOCKED, set_current(dev, pool));
}

/* ---- a pool's life ---- */

/* Host memory has one NUMA node here, and belongs to the first device's context. */
static CUresult place(const CUmemPoolProps *props, int *device, enum cpu_kind *kind) {
    switch (props->location.type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        *device = props->location.id;
        *kind = CPU_DEVICE_MEMORY;
        return known(*device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
        *device = 0;
        *kind = CPU_PINNED_MEMORY;
        return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult create(CUmemoryPool *result_pool, const CUmemPoolProps *props) {
    int device;
    enum cpu_kind kind;
    if (result_pool == NULL || props == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_NOT_SUPPORTED;
    if (props->handleTypes != CU_MEM_HANDLE_TYPE_NONE) return CUDA_ERROR_NOT_SUPPORTED;
    CUresult result = place(props, &device, &kind);
    if (result != CUDA_SUCCESS) return result;
    CUmemoryPool pool = malloc(sizeof *pool);
    if (pool == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    set_up(pool, device, kind, props->maxSize);
    *result_pool = pool;
    return CUDA_SUCCESS;
}

CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps) {
    CPU_CALL(CPU_LOCKED, create(pool, poolProps));
}

/* A device that had it as its current pool goes back to its default one, as documented. */
static CUresult destroy(CUmemoryPool pool) {
    CUresult result = find(pool);
    if (result != CUDA_SUCCESS || pool == &defaults[pool->device]) return CUDA_ERROR_INVALID_VALUE;
    if (chosen[pool->device] == pool) chosen[pool->device] = NULL;
    pool->magic = 0;
    if (pool->allocations == 0) free(pool);
    return CUDA_SUCCESS;
}

CUresult cuMemPoolDestroy(CUmemoryPool pool) { CPU_CALL(CPU_LOCKED, destroy(pool)); }

CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep) {
    (void)minBytesToKeep;
    CPU_CALL(CPU_LOCKED, find(pool));
}

/* ---- attributes ---- */

/* The high-water marks can only be set to 0, which means to what is used now. */
static CUresult set_attribute(CUmemoryPool pool, unsigned attribute, void *value) {
    CUresult result = find(pool);
    if (result != CUDA_SUCCESS || value == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) {
        pool->settings[attribute] = *(uint64_t *)value;
    } else if (attribute >= CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES && attribute < SETTABLE) {
        pool->settings[attribute] = *(int *)value != 0;
    } else if (attribute == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH && *(uint64_t *)value == 0) {
        pool->reserved_high = pool->used;
    } else if (attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH && *(uint64_t *)value == 0) {
        pool->used_high = pool->used;
    } else {
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value) {
    CPU_CALL(CPU_LOCKED, set_attribute(pool, attr, value));
}

static CUresult get_attribute(CUmemoryPool pool, unsigned attribute, void *value) {
    CUresult result = find(pool);
    if (result != CUDA_SUCCESS || value == NULL) return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        *(int *)value = (int)pool->settings[attribute];
        break;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: *(uint64_t *)value = pool->settings[attribute]; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: *(uint64_t *)value = pool->used; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: *(uint64_t *)value = pool->reserved_high; break;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH: *(uint64_t *)value = pool->used_high; break;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value) {
    CPU_CALL(CPU_LOCKED, get_attribute(pool, attr, value));
}

/* ---- access: remembered; all memory can be reached from every device here ---- */

static CUresult set_access(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count) {
    CUresult result = find(pool);
    if (result != CUDA_SUCCESS || (map == NULL && count > 0)) return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++) {
        bool device = map[i].location.type == CU_MEM_LOCATION_TYPE_DEVICE;
        if (!device || !known(map[i].location.id)) return CUDA_ERROR_INVALID_VALUE;
        bool own = pool->kind == CPU_DEVICE_MEMORY && map[i].location.id == pool->device;
        if (own && map[i].flags == CU_MEM_ACCESS_FLAGS_PROT_NONE) return CUDA_ERROR_INVALID_DEVICE;
    }
    for (size_t i = 0; i < count; i++) pool->access[map[i].location.id] = map[i].flags;
    return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count) {
    CPU_CALL(CPU_LOCKED, set_access(pool, map, count));
}

static CUresult get_access(unsigned *flags, CUmemoryPool pool, const CUmemLocation *location) {
    CUresult result = find(pool);
    if (result != CUDA_SUCCESS || flags == NULL || location == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (location->type == CU_MEM_LOCATION_TYPE_DEVICE && !known(location->id))
        return CUDA_ERROR_INVALID_VALUE;
    bool device = location->type == CU_MEM_LOCATION_TYPE_DEVICE;
    bool host = !device && pool->kind == CPU_PINNED_MEMORY;
    *flags = device ? pool->access[location->id] : host ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                                        : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return CUDA_SUCCESS;
}

CUresult cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool memPool,
                            CUmemLocation *location) {
    CPU_CALL(CPU_LOCKED, get_access(flags, memPool, location));
}
