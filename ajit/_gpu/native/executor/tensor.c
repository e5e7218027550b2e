/* Memory for other libraries, as the DLPack specification has it: device memory, and host memory
 * that a download filled.
 *
 * The library that takes a tensor may delete it on any thread, with or without the GIL. So its
 * deleter is C: it drops a hold on the memory. The last hold on device memory posts, as a finalizer
 * does (R2, R3); the last hold on host memory frees it.
 */
#include "executor.h"

#include <stdlib.h>
#include <string.h>

/* DLManagedTensor, version 0.x. Its type codes are those of DLPack 1.1. */
struct managed_tensor {
    void *data;
    int32_t device_type, device_id;
    int32_t dimensions;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides; /* no strides: C order */
    uint64_t byte_offset;
    void *context;
    void (*deleter)(struct managed_tensor *);
};

/* Host memory: the holds stand in front of the bytes. */
struct host_memory {
    _Atomic int64_t holds; /* Python's, and one of each tensor */
    _Alignas(64) unsigned char bytes[];
};

struct tensor {
    struct managed_tensor managed; /* first: its address is the tensor's */
    struct ajit_executor *executor;
    struct ajit_resource *resource; /* NULL: not device memory */
    void *host;                     /* of ajit_host_make, or NULL */
    int64_t shape[];
};

static struct host_memory *host_memory_of(void *bytes) {
    return (struct host_memory *)((unsigned char *)bytes - offsetof(struct host_memory, bytes));
}

/* Returns the address of new host memory, aligned for every type, or NULL without memory. */
void *ajit_host_make(uint64_t bytes) {
    size_t room = sizeof(struct host_memory) + bytes;
    if (room < bytes || room > SIZE_MAX - 63) return NULL;
    struct host_memory *memory = aligned_alloc(64, (room + 63) & ~(size_t)63);
    if (!memory) return NULL;
    atomic_init(&memory->holds, 1);
    return memory->bytes;
}

/* Drops a hold on host memory. */
void ajit_host_release(void *bytes) {
    struct host_memory *memory = host_memory_of(bytes);
    if (atomic_fetch_sub(&memory->holds, 1) == 1) free(memory);
}

static void delete(struct managed_tensor *managed) {
    struct tensor *tensor = (struct tensor *)managed;
    if (tensor->resource) ajit_post(tensor->executor, tensor->resource, ~(uint64_t)0);
    if (tensor->host) ajit_host_release(tensor->host);
    free(tensor);
}

/* Returns a DLManagedTensor without an owner, of as many dimensions as there are sizes, or NULL. */
static struct tensor *new_tensor(const struct ajit_tensor_type *type, const int64_t *sizes,
                                 uint64_t address) {
    size_t dimensions = (size_t)type->dimensions;
    struct tensor *tensor = calloc(1, sizeof *tensor + dimensions * sizeof *sizes);
    if (!tensor) return NULL;
    memcpy(tensor->shape, sizes, dimensions * sizeof *sizes);
    tensor->managed = (struct managed_tensor){
        .data = (void *)(uintptr_t)address,
        .device_type = type->device_type,
        .device_id = type->device_id,
        .dimensions = type->dimensions,
        .code = (uint8_t)type->code,
        .bits = (uint8_t)type->bits,
        .lanes = 1,
        .shape = tensor->shape,
        .deleter = delete,
    };
    return tensor;
}

/* Returns a DLManagedTensor of part of a resource, or NULL without memory. The resource may be NULL
 * where the tensor has no elements. */
void *ajit_tensor_make(struct ajit_executor *executor, struct ajit_resource *resource,
                       uint64_t address, const struct ajit_tensor_type *type,
                       const int64_t *sizes) {
    struct tensor *tensor = new_tensor(type, sizes, address);
    if (tensor && resource) {
        tensor->executor = executor;
        tensor->resource = resource;
        atomic_fetch_add(&resource->holds, 1);
    }
    return tensor;
}

/* Returns a DLManagedTensor of part of what ajit_host_make made, or NULL without memory. */
void *ajit_host_tensor_make(void *host, uint64_t address, const struct ajit_tensor_type *type,
                            const int64_t *sizes) {
    struct tensor *tensor = new_tensor(type, sizes, address);
    if (tensor && host) {
        tensor->host = host;
        atomic_fetch_add(&host_memory_of(host)->holds, 1);
    }
    return tensor;
}

/* Functions of Python; this library is built without its headers. */
static int (*capsule_is_valid)(void *capsule, const char *name);
static void *(*capsule_pointer)(void *capsule, const char *name);

/* Destructor of a capsule. A library that takes the tensor renames the capsule and deletes the
 * tensor itself; one that was never taken is deleted here. It is C since it may run while an
 * exception is being raised, where Python code must not. */
static void delete_capsule(void *capsule) {
    static const char name[] = "dltensor";
    if (capsule_is_valid(capsule, name)) delete(capsule_pointer(capsule, name));
}

/* Takes PyCapsule_IsValid and PyCapsule_GetPointer. Returns the destructor of capsules. */
void *ajit_tensor_destructor(void *is_valid, void *pointer) {
    capsule_is_valid = (int (*)(void *, const char *))is_valid;
    capsule_pointer = (void *(*)(void *, const char *))pointer;
    return (void *)delete_capsule;
}
