/* Copies and fills.
 *
 * Every address is checked against the table of memory when the call is made: what is neither
 * inside one allocation nor ordinary host memory is CUDA_ERROR_INVALID_VALUE, and nothing is
 * submitted. Ordinary (pageable) host memory behaves as documented for NVIDIA's driver: a source is
 * copied before the call returns, a destination is complete when it returns.
 */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

enum copy_rule {
    FROM_DEVICE = 1, /* the source must be memory the driver knows */
    TO_DEVICE = 2,   /* the destination must be */
    BLOCKING = 4     /* return when it is done */
};

typedef struct copy_part {
    unsigned char *to;
    const unsigned char *from;
    size_t bytes;
    void *staged; /* the source's bytes, copied when the call was made; or NULL */
} copy_part;

typedef struct copy_op {
    cpu_op op;
    size_t count;
    copy_part parts[];
} copy_op;

static void run_copy(cpu_op *base, CUstream stream) {
    copy_op *op = (copy_op *)base;
    CUresult injected = cpu_injected("device:copy");
    if (injected != CUDA_SUCCESS) {
        cpu_lose(stream->context, injected);
        return;
    }
    for (size_t i = 0; i < op->count; i++)
        memmove(op->parts[i].to, op->parts[i].from, op->parts[i].bytes);
}

static void drop_copy(cpu_op *base) {
    copy_op *op = (copy_op *)base;
    for (size_t i = 0; i < op->count; i++) free(op->parts[i].staged);
    free(op);
}

/* CUDA_SUCCESS if the driver knows all of these bytes, or none of them and that is allowed. */
static CUresult check(CUdeviceptr address, size_t bytes, bool must_know) {
    if (cpu_memory_find(address, bytes) != NULL) return CUDA_SUCCESS;
    bool partly = cpu_memory_meets(address, bytes);
    return partly || must_know || address == 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

static CUresult check_copy(CUdeviceptr to, CUdeviceptr from, size_t bytes, unsigned rules) {
    CUresult result = check(to, bytes, rules & TO_DEVICE);
    return result == CUDA_SUCCESS ? check(from, bytes, rules & FROM_DEVICE) : result;
}

static CUresult stage(copy_part *part) {
    part->staged = malloc(part->bytes);
    if (part->staged == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(part->staged, part->from, part->bytes);
    part->from = part->staged;
    return CUDA_SUCCESS;
}

static copy_op *new_copy(size_t count) {
    copy_op *op = cpu_op_new(sizeof *op + count * sizeof(copy_part), run_copy, drop_copy);
    if (op == NULL) return NULL;
    op->op.kind = CU_GRAPH_NODE_TYPE_MEMCPY;
    op->count = count;
    return op;
}

static CUresult submit_copy(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream,
                            unsigned rules) {
    copy_op *op = new_copy(1);
    if (op == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    copy_part *part = &op->parts[0];
    *part = (copy_part){(void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes, NULL};
    bool pageable = cpu_memory_at(from) == NULL;
    CUresult result = CUDA_SUCCESS;
    if (pageable && !(rules & BLOCKING) && stream->capture == NULL) result = stage(part);
    if (result == CUDA_SUCCESS) return cpu_submit(stream, &op->op);
    drop_copy(&op->op);
    return result;
}

/* The whole of a single copy. Takes the driver lock itself, as it may have to wait without it. */
static CUresult copy(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream handle,
                     unsigned rules) {
    CUstream stream;
    cpu_lock();
    CUresult result = cpu_stream_find(handle, &stream);
    if (result == CUDA_SUCCESS && bytes > 0) result = check_copy(to, from, bytes, rules);
    if (result != CUDA_SUCCESS || bytes == 0) {
        cpu_unlock();
        return result;
    }
    if (cpu_memory_at(to) == NULL && stream->capture == NULL) rules |= BLOCKING;
    result = submit_copy(to, from, bytes, stream, rules);
    cpu_stream_share(stream);
    cpu_unlock();
    if (result == CUDA_SUCCESS && (rules & BLOCKING)) {
        cpu_stream_wait(stream);
        result = cpu_lost(stream->context);
    }
    cpu_stream_drop(stream);
    return result;
}

#define HOST(pointer) ((CUdeviceptr)(uintptr_t)(pointer))

CUresult cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount) {
    CPU_CALL(CPU_FREE | CPU_UNSAFE, copy(dst, src, ByteCount, NULL, BLOCKING));
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount) {
    CPU_CALL(CPU_FREE | CPU_UNSAFE,
             copy(dstDevice, HOST(srcHost), ByteCount, NULL, TO_DEVICE | BLOCKING));
}

CUresult cuMemcpyDtoH_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount) {
    CPU_CALL(CPU_FREE | CPU_UNSAFE,
             copy(HOST(dstHost), srcDevice, ByteCount, NULL, FROM_DEVICE | BLOCKING));
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount) {
    CPU_CALL(CPU_FREE | CPU_UNSAFE,
             copy(dstDevice, srcDevice, ByteCount, NULL, FROM_DEVICE | TO_DEVICE | BLOCKING));
}

CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream) {
    CPU_CALL(CPU_FREE, copy(dst, src, ByteCount, hStream, 0));
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount,
                              CUstream hStream) {
    CPU_CALL(CPU_FREE, copy(dstDevice, HOST(srcHost), ByteCount, hStream, TO_DEVICE));
}

CUresult cuMemcpyDtoHAsync_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount,
                              CUstream hStream) {
    CPU_CALL(CPU_FREE, copy(HOST(dstHost), srcDevice, ByteCount, hStream, FROM_DEVICE));
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount,
                              CUstream hStream) {
    CPU_CALL(CPU_FREE, copy(dstDevice, srcDevice, ByteCount, hStream, FROM_DEVICE | TO_DEVICE));
}

/* ---- batches ---- */

static CUresult check_attributes(const CUmemcpyAttributes *attributes, const size_t *indices,
                                 size_t attribute_count, size_t count) {
    if (attributes == NULL || indices == NULL || attribute_count == 0 || attribute_count > count)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < attribute_count; i++) {
        bool ordered = i == 0 ? indices[0] == 0 : indices[i] > indices[i - 1];
        unsigned access = attributes[i].srcAccessOrder;
        if (!ordered || indices[i] >= count) return CUDA_ERROR_INVALID_VALUE;
        if (access < CU_MEMCPY_SRC_ACCESS_ORDER_STREAM || access > CU_MEMCPY_SRC_ACCESS_ORDER_ANY)
            return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

static CUresult fill_part(copy_part *part, CUdeviceptr to, CUdeviceptr from, size_t bytes,
                          unsigned access) {
    CUresult result = check_copy(to, from, bytes, 0);
    if (result != CUDA_SUCCESS) return result;
    *part = (copy_part){(void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes, NULL};
    bool now = access == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
    return now && bytes > 0 ? stage(part) : CUDA_SUCCESS;
}

static CUresult copy_batch(const CUdeviceptr *to, const CUdeviceptr *from, const size_t *sizes,
                           size_t count, const CUmemcpyAttributes *attributes,
                           const size_t *indices, size_t attribute_count, CUstream handle) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    if (result != CUDA_SUCCESS) return result;
    if (to == NULL || from == NULL || sizes == NULL || count == 0) return CUDA_ERROR_INVALID_VALUE;
    if (stream == stream->context->legacy) return CUDA_ERROR_INVALID_VALUE; /* as documented */
    result = check_attributes(attributes, indices, attribute_count, count);
    if (result != CUDA_SUCCESS) return result;
    copy_op *op = new_copy(count);
    if (op == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0, a = 0; i < count && result == CUDA_SUCCESS; i++) {
        if (a + 1 < attribute_count && indices[a + 1] == i) a++;
        result = fill_part(&op->parts[i], to[i], from[i], sizes[i], attributes[a].srcAccessOrder);
    }
    if (result == CUDA_SUCCESS) return cpu_submit(stream, &op->op);
    drop_copy(&op->op);
    return result;
}

CUresult cuMemcpyBatchAsync_v2(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
                               CUmemcpyAttributes *attrs, size_t *attrsIdxs, size_t numAttrs,
                               CUstream hStream) {
    CPU_CALL(CPU_WORK, copy_batch(dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, hStream));
}
