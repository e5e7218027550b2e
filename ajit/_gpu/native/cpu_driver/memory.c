/* The table of all memory the driver knows, sorted by address, and the limit of each device.
 *
 * Everything is guarded by the driver lock. What fails leaves the table as it was. Device memory is
 * ordinary memory that only this table calls device memory: a kernel reads it directly, and a copy
 * is checked against it.
 */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 512 }; /* as NVIDIA's allocator returns in practice; 256 is documented */

static cpu_range *ranges;
static size_t count, capacity;
static uint64_t used[CPU_MAX_DEVICES];

/* What an allocation costs. The table keeps the exact size, so that a copy that is one byte too
 * long is found, which a GPU's page size would hide. */
static size_t charge(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* The index of the first range that starts after `address`. */
static size_t upper(uintptr_t address) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ranges[middle].start <= address) low = middle + 1;
        else high = middle;
    }
    return low;
}

const cpu_range *cpu_memory_at(uintptr_t address) {
    size_t index = upper(address);
    if (index == 0) return NULL;
    const cpu_range *range = &ranges[index - 1];
    return address - range->start < range->bytes ? range : NULL;
}

const cpu_range *cpu_memory_find(uintptr_t address, size_t bytes) {
    const cpu_range *range = cpu_memory_at(address);
    if (range == NULL || bytes > range->bytes - (address - range->start)) return NULL;
    return range;
}

bool cpu_memory_meets(uintptr_t address, size_t bytes) {
    size_t index = upper(address);
    return cpu_memory_at(address) != NULL ||
           (index < count && ranges[index].start - address < bytes);
}

static CUresult reserve(void) {
    if (count < capacity) return CUDA_SUCCESS;
    size_t wanted = capacity ? capacity * 2 : 256;
    cpu_range *grown = realloc(ranges, wanted * sizeof *grown);
    if (grown == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    ranges = grown;
    capacity = wanted;
    return CUDA_SUCCESS;
}

CUresult cpu_memory_add(CUcontext context, enum cpu_kind kind, uintptr_t address, size_t bytes) {
    CUresult result = reserve();
    if (result != CUDA_SUCCESS) return result;
    size_t index = upper(address);
    memmove(&ranges[index + 1], &ranges[index], (count - index) * sizeof *ranges);
    ranges[index] = (cpu_range){address, bytes, kind, context, NULL};
    count++;
    if (kind == CPU_DEVICE_MEMORY) used[context->device] += charge(bytes);
    return CUDA_SUCCESS;
}

static void remove_at(size_t index) {
    const cpu_range range = ranges[index];
    if (range.kind == CPU_DEVICE_MEMORY) used[range.context->device] -= charge(range.bytes);
    memmove(&ranges[index], &ranges[index + 1], (count - index - 1) * sizeof *ranges);
    count--;
    if (range.kind != CPU_REGISTERED_MEMORY) free((void *)range.start);
    if (range.pool != NULL) cpu_pool_release(range.pool, range.bytes);
}

CUresult cpu_memory_new(CUcontext context, enum cpu_kind kind, size_t bytes, uintptr_t *address) {
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (bytes > SIZE_MAX - ALIGNMENT) return CUDA_ERROR_OUT_OF_MEMORY;
    size_t rounded = charge(bytes);
    uint64_t limit = cpu_device_memory_bytes(), taken = used[context->device];
    if (kind == CPU_DEVICE_MEMORY && (taken > limit || rounded > limit - taken))
        return CUDA_ERROR_OUT_OF_MEMORY;
    void *memory = aligned_alloc(ALIGNMENT, rounded);
    if (memory == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = cpu_memory_add(context, kind, (uintptr_t)memory, bytes);
    if (result != CUDA_SUCCESS) free(memory);
    else *address = (uintptr_t)memory;
    return result;
}

CUresult cpu_memory_new_in(CUmemoryPool pool, CUcontext context, enum cpu_kind kind, size_t bytes,
                           uintptr_t *address) {
    CUresult result = cpu_memory_new(context, kind, bytes, address);
    if (result == CUDA_SUCCESS) ranges[upper(*address) - 1].pool = pool;
    return result;
}

CUresult cpu_memory_delete(uintptr_t address, enum cpu_kind kind) {
    size_t index = upper(address);
    if (index == 0 || ranges[index - 1].start != address || ranges[index - 1].kind != kind)
        return CUDA_ERROR_INVALID_VALUE;
    remove_at(index - 1);
    return CUDA_SUCCESS;
}

void cpu_memory_delete_all(CUcontext context) {
    for (size_t index = count; index-- > 0;)
        if (ranges[index].context == context) remove_at(index);
}

uint64_t cpu_memory_used(CUcontext context) { return used[context->device]; }

void cpu_memory_hold(int device, int64_t bytes) { used[device] += (uint64_t)bytes; }

/* ---- freeing in stream order ---- */

typedef struct delete_op {
    cpu_op op;
    uintptr_t address;
    enum cpu_kind kind;
} delete_op;

static void run_delete(cpu_op *op, CUstream stream) {
    const delete_op *own = (const delete_op *)op;
    (void)stream;
    cpu_lock();
    cpu_memory_delete(own->address, own->kind);
    cpu_unlock();
}

CUresult cpu_submit_delete(CUstream stream, uintptr_t address, enum cpu_kind kind) {
    delete_op *op = cpu_op_new(sizeof *op, run_delete, cpu_op_free);
    if (op == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    op->op.always = true; /* or a lost device would leak it until the context goes */
    op->address = address;
    op->kind = kind;
    return cpu_submit(stream, &op->op);
}
