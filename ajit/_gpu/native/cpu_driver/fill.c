/* Fills (memset) of 8, 16 and 32 bit values. */
#include "driver.h"

typedef struct fill_op {
    cpu_op op;
    CUdeviceptr to;
    uint32_t value;
    unsigned width; /* bytes of one element */
    size_t count;
} fill_op;

static void run_fill(cpu_op *base, CUstream stream) {
    const fill_op *op = (const fill_op *)base;
    (void)stream;
    void *to = (void *)(uintptr_t)op->to;
    for (size_t i = 0; i < op->count; i++) {
        if (op->width == 1) ((uint8_t *)to)[i] = (uint8_t)op->value;
        else if (op->width == 2) ((uint16_t *)to)[i] = (uint16_t)op->value;
        else ((uint32_t *)to)[i] = op->value;
    }
}

static CUresult submit_fill(CUdeviceptr to, uint32_t value, unsigned width, size_t count,
                            CUstream stream) {
    if (to % width != 0 || count > SIZE_MAX / width) return CUDA_ERROR_INVALID_VALUE;
    if (count == 0) return CUDA_SUCCESS;
    if (cpu_memory_find(to, count * width) == NULL) return CUDA_ERROR_INVALID_VALUE;
    fill_op *op = cpu_op_new(sizeof *op, run_fill, cpu_op_free);
    if (op == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    op->op.kind = CU_GRAPH_NODE_TYPE_MEMSET;
    op->to = to;
    op->value = value;
    op->width = width;
    op->count = count;
    return cpu_submit(stream, &op->op);
}

static CUresult fill(CUdeviceptr to, uint32_t value, unsigned width, size_t count,
                     CUstream handle) {
    CUstream stream;
    CUresult result = cpu_stream_find(handle, &stream);
    return result == CUDA_SUCCESS ? submit_fill(to, value, width, count, stream) : result;
}

/* Through the legacy stream, and waits for it. */
static CUresult fill_now(CUdeviceptr to, uint32_t value, unsigned width, size_t count) {
    CUcontext context = cpu_current();
    cpu_lock();
    CUresult result = fill(to, value, width, count, NULL);
    CUstream stream = cpu_stream_share(context->legacy);
    cpu_unlock();
    if (result == CUDA_SUCCESS) cpu_stream_wait(stream);
    cpu_stream_drop(stream);
    return result == CUDA_SUCCESS ? cpu_lost(context) : result;
}

CUresult cuMemsetD8_v2(CUdeviceptr dstDevice, unsigned char uc, size_t N) {
    CPU_CALL(CPU_FREE | CPU_UNSAFE, fill_now(dstDevice, uc, 1, N));
}

CUresult cuMemsetD16_v2(CUdeviceptr dstDevice, unsigned short us, size_t N) {
    CPU_CALL(CPU_FREE | CPU_UNSAFE, fill_now(dstDevice, us, 2, N));
}

CUresult cuMemsetD32_v2(CUdeviceptr dstDevice, unsigned int ui, size_t N) {
    CPU_CALL(CPU_FREE | CPU_UNSAFE, fill_now(dstDevice, ui, 4, N));
}

CUresult cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream) {
    CPU_CALL(CPU_WORK, fill(dstDevice, uc, 1, N, hStream));
}

CUresult cuMemsetD16Async(CUdeviceptr dstDevice, unsigned short us, size_t N, CUstream hStream) {
    CPU_CALL(CPU_WORK, fill(dstDevice, us, 2, N, hStream));
}

CUresult cuMemsetD32Async(CUdeviceptr dstDevice, unsigned int ui, size_t N, CUstream hStream) {
    CPU_CALL(CPU_WORK, fill(dstDevice, ui, 4, N, hStream));
}
