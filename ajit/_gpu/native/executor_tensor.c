/* Device memory for other libraries, as the DLPack specification has it.
 *
 * Whoever takes the tensor may let it go on any thread, with or without the GIL. So its deleter is C: it
 * gives back a hold on the memory, and the last hold posts, as a finalizer does (R2, R3).
 */
#include "executor.h"

#include <stdlib.h>

enum { DL_UINT = 1, BITS_OF_A_BYTE = 8 };

/* DLManagedTensor, version 0.x: a one-dimensional array of bytes. */
struct managed_tensor {
    void *data;
    int32_t device_type, device_id;
    int32_t dimensions;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
    void *context;
    void (*deleter)(struct managed_tensor *);
};

struct tensor {
    struct managed_tensor managed; /* first: its address is the tensor's */
    int64_t shape;
    struct ajit_executor *executor;
    struct ajit_resource *resource;
};

static void delete(struct managed_tensor *managed)
{
    struct tensor *tensor = (struct tensor *)managed;
    struct ajit_executor *executor = tensor->executor;
    ajit_post(executor, tensor->resource, ~(uint64_t)0);
    atomic_fetch_sub(&executor->tensors, 1);
    free(tensor);
}

/* Returns a DLManagedTensor of part of a resource, or NULL without memory. */
void *ajit_tensor_make(struct ajit_executor *executor, struct ajit_resource *resource,
                       uint64_t address, uint64_t bytes, int device_type, int device_id)
{
    struct tensor *tensor = calloc(1, sizeof *tensor);
    if (!tensor)
        return NULL;
    tensor->shape = (int64_t)bytes;
    tensor->executor = executor;
    tensor->resource = resource;
    tensor->managed = (struct managed_tensor){
        .data = (void *)(uintptr_t)address,
        .device_type = device_type,
        .device_id = device_id,
        .dimensions = 1,
        .code = DL_UINT,
        .bits = BITS_OF_A_BYTE,
        .lanes = 1,
        .shape = &tensor->shape,
        .deleter = delete,
    };
    atomic_fetch_add(&resource->holds, 1);
    atomic_fetch_add(&executor->tensors, 1);
    return tensor;
}

/* What a consumer would have done, for a capsule that nobody consumed. */
void ajit_tensor_delete(void *tensor)
{
    delete(tensor);
}
