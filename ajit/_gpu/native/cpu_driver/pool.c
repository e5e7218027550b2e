/* Memory pools: an account over ordinary allocations, with a limit and high-water marks.
 *
 * The memory of what is freed is gone at once. Up to the release threshold, 0 unless it is set, its
 * bytes stay charged to the device, as if the pool kept them, until they are allocated again,
 * trimmed or the pool is destroyed. The reuse attributes are kept and change nothing. Each place (a
 * device, or the host) has a default pool and a current one; cuMemAllocAsync takes a device's. A
 * destroyed pool goes when its last allocation does. Sharing pools with other processes is not
 * supported: a handle type other than none is refused. Everything is guarded by the driver lock.
 */
#include "driver.h"

#include <stdlib.h>

static const uint64_t MAGIC = 0x616a69742d706f6c; /* "ajit-pol" */
enum { SETTABLE = CU_MEMPOOL_ATTR_RELEASE_THRESHOLD };

enum { HOST = CPU_MAX_DEVICES, PLACES }; /* a device's place is its number */

struct CUmemPoolHandle_st {
    uint64_t magic;
    int place;
    size_t max_bytes; /* 0: only the device's own limit */
    uint64_t used, used_high, reserved_high;
    uint64_t kept; /* bytes that are reserved and not used */
    uint64_t settings[SETTABLE + 1];
    unsigned access[CPU_MAX_DEVICES];
    uint64_t allocations;
    CUmemoryPool next; /* in the list of those that were created */
};

static CUmemoryPool created;

static struct CUmemPoolHandle_st defaults[PLACES];
static CUmemoryPool chosen[PLACES];

static void set_up(CUmemoryPool pool, int place, size_t max_bytes) {
    *pool = (struct CUmemPoolHandle_st){
        .magic = MAGIC, .place = place, .max_bytes = max_bytes, .settings = {0, 1, 1, 1, 0}};
    for (int i = 0; i < CPU_MAX_DEVICES; i++)
        pool->access[i] = place == HOST || place == i ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                                      : CU_MEM_ACCESS_FLAGS_PROT_NONE;
}

static CUmemoryPool default_pool(int place) {
    CUmemoryPool pool = &defaults[place];
    if (pool->magic == 0) set_up(pool, place, 0);
    return pool;
}

CUmemoryPool cpu_pool_current(int place) {
    return chosen[place] != NULL ? chosen[place] : default_pool(place);
}

static CUresult find(CUmemoryPool pool) {
    return pool != NULL && pool->magic == MAGIC ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static bool known(CUdevice dev) { return dev >= 0 && dev < cpu_device_count(); }

/* The host's memory has one NUMA node here. */
static CUresult find_place(const CUmemLocation *location, unsigned type, int *place) {
    if (location == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_NOT_SUPPORTED; /* managed */
    switch (location->type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        *place = location->id;
        return known(location->id) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT: *place = HOST; return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
}

/* ---- what is kept ---- */

/* Keeps what may be kept of what is reserved, the first `most` bytes. */
static void keep(CUmemoryPool pool, uint64_t reserved, uint64_t most) {
    uint64_t limit = pool->max_bytes > 0 && pool->max_bytes < most ? pool->max_bytes : most;
    uint64_t kept = reserved < limit ? reserved : limit;
    kept = kept > pool->used ? kept - pool->used : 0;
    if (pool->place != HOST) cpu_memory_hold(pool->place, (int64_t)(kept - pool->kept));
    pool->kept = kept;
}

/* The device was reset or is unused: its memory is gone, and what the pools kept as well. */
void cpu_pools_empty(int device) {
    for (CUmemoryPool pool = created; pool != NULL; pool = pool->next)
        if (pool->place == device) keep(pool, 0, 0);
    keep(default_pool(device), 0, 0);
}

/* ---- allocations ---- */

CUresult cpu_pool_allocate(CUmemoryPool pool, size_t bytes, uintptr_t *address) {
    CUresult result = find(pool);
    if (result != CUDA_SUCCESS) return result;
    if (bytes == 0) { /* the null pointer, which may be freed; only cuMemAlloc calls it an error */
        *address = 0;
        return CUDA_SUCCESS;
    }
    if (pool->max_bytes > 0 && bytes > pool->max_bytes - pool->used)
        return CUDA_ERROR_OUT_OF_MEMORY;
    bool host = pool->place == HOST;
    CUcontext context = cpu_context(host ? 0 : pool->place); /* the host's belongs to the first */
    enum cpu_kind kind = host ? CPU_PINNED_MEMORY : CPU_DEVICE_MEMORY;
    uint64_t reserved = pool->used + pool->kept;
    keep(pool, reserved, reserved - (bytes < pool->kept ? bytes : pool->kept));
    result = cpu_memory_new_in(pool, context, kind, bytes, address);
    if (result != CUDA_SUCCESS) {
        keep(pool, reserved, reserved);
        return result;
    }
    pool->allocations++;
    pool->used += bytes;
    if (pool->used > pool->used_high) pool->used_high = pool->used;
    reserved = pool->used + pool->kept;
    if (reserved > pool->reserved_high) pool->reserved_high = reserved;
    return CUDA_SUCCESS;
}

void cpu_pool_release(CUmemoryPool pool, size_t bytes) {
    uint64_t reserved = pool->used + pool->kept;
    pool->used -= bytes;
    if (pool->magic != 0) keep(pool, reserved, pool->settings[CU_MEMPOOL_ATTR_RELEASE_THRESHOLD]);
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

static CUresult set_current(int place, CUmemoryPool pool) {
    if (find(pool) != CUDA_SUCCESS || pool->place != place) return CUDA_ERROR_INVALID_VALUE;
    chosen[place] = pool;
    return CUDA_SUCCESS;
}

static CUresult set_of_device(CUdevice dev, CUmemoryPool pool) {
    return known(dev) ? set_current(dev, pool) : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool) {
    CPU_CALL(CPU_LOCKED, set_of_device(dev, pool));
}

static CUresult get_at(CUmemoryPool *pool, const CUmemLocation *location, unsigned type,
                       CUmemoryPool (*which)(int)) {
    int place;
    CUresult result = find_place(location, type, &place);
    if (pool == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) *pool = which(place);
    return result;
}

CUresult cuMemGetDefaultMemPool(CUmemoryPool *pool_out, CUmemLocation *location,
                                CUmemAllocationType type) {
    CPU_CALL(CPU_LOCKED, get_at(pool_out, location, type, default_pool));
}

CUresult cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type) {
    CPU_CALL(CPU_LOCKED, get_at(pool, location, type, cpu_pool_current));
}

static CUresult set_at(const CUmemLocation *location, unsigned type, CUmemoryPool pool) {
    int place;
    CUresult result = find_place(location, type, &place);
    return result == CUDA_SUCCESS ? set_current(place, pool) : result;
}

CUresult cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type, CUmemoryPool pool) {
    CPU_CALL(CPU_LOCKED, set_at(location, type, pool));
}

/* ---- a pool's life ---- */

static CUresult create(CUmemoryPool *result_pool, const CUmemPoolProps *props) {
    int place;
    if (result_pool == NULL || props == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (props->handleTypes != CU_MEM_HANDLE_TYPE_NONE) return CUDA_ERROR_NOT_SUPPORTED;
    CUresult result = find_place(&props->location, props->allocType, &place);
    if (result != CUDA_SUCCESS) return result;
    CUmemoryPool pool = malloc(sizeof *pool);
    if (pool == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    set_up(pool, place, props->maxSize);
    pool->next = created;
    created = pool;
    *result_pool = pool;
    return CUDA_SUCCESS;
}

CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps) {
    CPU_CALL(CPU_LOCKED, create(pool, poolProps));
}

/* A place that had it as its current pool goes back to its default one, as documented. */
static CUresult destroy(CUmemoryPool pool) {
    CUresult result = find(pool);
    if (result != CUDA_SUCCESS || pool == &defaults[pool->place]) return CUDA_ERROR_INVALID_VALUE;
    if (chosen[pool->place] == pool) chosen[pool->place] = NULL;
    keep(pool, 0, 0);
    CUmemoryPool *link = &created;
    while (*link != pool) link = &(*link)->next;
    *link = pool->next;
    pool->magic = 0;
    if (pool->allocations == 0) free(pool);
    return CUDA_SUCCESS;
}

CUresult cuMemPoolDestroy(CUmemoryPool pool) { CPU_CALL(CPU_LOCKED, destroy(pool)); }

static CUresult trim(CUmemoryPool pool, size_t bytes) {
    CUresult result = find(pool);
    if (result == CUDA_SUCCESS) keep(pool, pool->used + pool->kept, bytes);
    return result;
}

CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep) {
    CPU_CALL(CPU_LOCKED, trim(pool, minBytesToKeep));
}

/* ---- attributes ---- */

/* The high-water marks can only be set to 0, which means to what is used now. */
static CUresult set_attribute(CUmemoryPool pool, unsigned attribute, void *value) {
    CUresult result = find(pool);
    if (result != CUDA_SUCCESS || value == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) {
        pool->settings[attribute] = *(uint64_t *)value;
    } else if (attribute >= CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES &&
               attribute < SETTABLE) {
        pool->settings[attribute] = *(int *)value != 0;
    } else if (attribute == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH && *(uint64_t *)value == 0) {
        pool->reserved_high = pool->used + pool->kept;
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
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: *(uint64_t *)value = pool->used + pool->kept; break;
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
        bool own = map[i].location.id == pool->place;
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
    if (result != CUDA_SUCCESS || flags == NULL || location == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (location->type == CU_MEM_LOCATION_TYPE_DEVICE && !known(location->id))
        return CUDA_ERROR_INVALID_VALUE;
    bool device = location->type == CU_MEM_LOCATION_TYPE_DEVICE;
    bool host = !device && pool->place == HOST;
    *flags = device ? pool->access[location->id]
             : host ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                    : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return CUDA_SUCCESS;
}

CUresult cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool memPool,
                            CUmemLocation *location) {
    CPU_CALL(CPU_LOCKED, get_access(flags, memPool, location));
}
