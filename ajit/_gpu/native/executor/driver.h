/* The driver as the executor sees it: one table of function pointers.
 *
 * The table is filled with dlsym from libcuda.so.1 or from the CPU driver; everything above it is
 * the same code. Types and numbers are the driver API's own. No CUDA header is needed to build.
 */
#ifndef AJIT_EXECUTOR_DRIVER_H
#define AJIT_EXECUTOR_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;
typedef struct CUmemPoolHandle_st *CUmemoryPool;
typedef void (*CUhostFn)(void *);

enum {
    CUDA_SUCCESS = 0,
#define ERROR(name, number, kind, text) CUDA_ERROR_##name = number,
#include "../table.def"
};

/* Stands for the legacy default stream, which no other handle names but 0. */
#define CU_STREAM_LEGACY ((CUstream)0x1)

enum {
    CU_STREAM_NON_BLOCKING = 1,
    CU_STREAM_CAPTURE_MODE_RELAXED = 2,
    CU_EVENT_DISABLE_TIMING = 2
};
enum { CU_MEMCPY_SRC_ACCESS_ORDER_STREAM = 1 };
enum { CU_MEMHOSTREGISTER_PORTABLE = 1 };

/* CUmemcpyAttributes of cuda.h: in which order the sources are read, and hints that are not
 * given. */
struct ajit_copy_attributes {
    uint32_t source_order;
    uint32_t source_hint[2], target_hint[2]; /* kind and number of a location */
    uint32_t flags;
};

enum {
    CU_MEM_ALLOCATION_TYPE_PINNED = 1,
    CU_MEM_LOCATION_TYPE_DEVICE = 1,
    CU_MEMPOOL_ATTR_RELEASE_THRESHOLD = 4,
    CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT = 5,
};

/* CUmemPoolProps of cuda.h. */
struct ajit_pool_properties {
    uint32_t allocation_type, handle_types;
    int32_t location_type, location;
    void *security;
    size_t max_bytes;
    uint16_t usage;
    uint8_t reserved[54];
};

enum {
    CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION = 4,
    CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6,
    CU_LAUNCH_ATTRIBUTE_PRIORITY = 8,
};

/* CUlaunchAttribute of cuda.h: its value is a union of 64 bytes, of which these are used. */
struct ajit_launch_attribute {
    int32_t id, padding;
    union {
        uint32_t cluster[3];
        int32_t number;
        uint64_t bytes[8];
    } value;
};

/* CUlaunchConfig of cuda.h. */
struct ajit_launch_config {
    uint32_t grid[3], block[3];
    uint32_t shared_bytes;
    CUstream stream;
    struct ajit_launch_attribute *attributes;
    uint32_t attribute_count;
};

enum {
    CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 0,
    CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1,
    CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES = 3,
    CU_FUNC_ATTRIBUTE_NUM_REGS = 4,
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
    CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14,
};

enum {
    CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 1,
    CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X = 2,
    CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X = 5,
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK = 8,
    CU_DEVICE_ATTRIBUTE_WARP_SIZE = 10,
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CU_DEVICE_ATTRIBUTE_PCI_BUS_ID = 33,
    CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID = 34,
    CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID = 50,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
    CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED = 115,
    CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH = 120,
};

struct ajit_driver {
    CUresult (*init)(unsigned);
    CUresult (*driver_version)(int *);
    CUresult (*device_count)(int *);
    CUresult (*device_get)(CUdevice *, int);
    CUresult (*device_name)(char *, int, CUdevice);
    CUresult (*device_total_memory)(size_t *, CUdevice);
    CUresult (*device_attribute)(int *, int, CUdevice);
    CUresult (*context_retain)(CUcontext *, CUdevice);
    CUresult (*context_release)(CUdevice);
    CUresult (*context_set_current)(CUcontext);
    CUresult (*stream_create)(CUstream *, unsigned, int);
    CUresult (*stream_destroy)(CUstream);
    CUresult (*stream_query)(CUstream);
    CUresult (*memory_alloc)(CUdeviceptr *, size_t);
    CUresult (*memory_free)(CUdeviceptr);
    CUresult (*host_alloc)(void **, size_t, unsigned);
    CUresult (*host_free)(void *);
    CUresult (*host_register)(void *, size_t, unsigned);
    CUresult (*host_unregister)(void *);
    CUresult (*copy_to_device)(CUdeviceptr, const void *, size_t, CUstream);
    CUresult (*copy_to_host)(void *, CUdeviceptr, size_t, CUstream);
    CUresult (*copy_on_device)(CUdeviceptr, CUdeviceptr, size_t, CUstream);
    CUresult (*fill)(CUdeviceptr, unsigned char, size_t, CUstream);
    CUresult (*module_load)(CUmodule *, const void *);
    CUresult (*module_unload)(CUmodule);
    CUresult (*module_function)(CUfunction *, CUmodule, const char *);
    CUresult (*function_load)(CUfunction);
    CUresult (*function_param)(CUfunction, size_t, size_t *, size_t *);
    CUresult (*function_attribute)(int *, int, CUfunction);
    CUresult (*function_set_attribute)(CUfunction, int, int);
    CUresult (*launch)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                       unsigned, CUstream, void **, void **);
    CUresult (*launch_host_function)(CUstream, CUhostFn, void *);
    CUresult (*exchange_capture_mode)(int *);
    CUresult (*stream_wait_event)(CUstream, CUevent, unsigned);
    CUresult (*event_create)(CUevent *, unsigned);
    CUresult (*event_destroy)(CUevent);
    CUresult (*event_record)(CUevent, CUstream);
    CUresult (*event_elapsed)(float *, CUevent, CUevent);
    CUresult (*copy_anywhere)(CUdeviceptr, CUdeviceptr, size_t, CUstream);
    CUresult (*stream_is_capturing)(CUstream, int *);
    CUresult (*stream_begin_capture)(CUstream, int);
    CUresult (*stream_end_capture)(CUstream, CUgraph *);
    CUresult (*graph_destroy)(CUgraph);
    /* NULL where the driver has none. */
    CUresult (*copy_batch)(CUdeviceptr *, CUdeviceptr *, size_t *, size_t,
                           struct ajit_copy_attributes *, size_t *, size_t, CUstream);
    CUresult (*graph_instantiate)(CUgraphExec *, CUgraph, unsigned long long);
    CUresult (*graph_launch)(CUgraphExec, CUstream);
    CUresult (*graph_exec_destroy)(CUgraphExec);
    CUresult (*pool_create)(CUmemoryPool *, const struct ajit_pool_properties *);
    CUresult (*pool_destroy)(CUmemoryPool);
    CUresult (*pool_trim)(CUmemoryPool, size_t);
    CUresult (*pool_set)(CUmemoryPool, int, void *);
    CUresult (*pool_get)(CUmemoryPool, int, void *);
    CUresult (*pool_alloc)(CUdeviceptr *, size_t, CUmemoryPool, CUstream);
    CUresult (*pool_free)(CUdeviceptr, CUstream);
    CUresult (*launch_with)(const struct ajit_launch_config *, CUfunction, void **, void **);
};

/* Opens the library and fills the table. Returns 0, or -1 with one line of text in `error`. */
int ajit_driver_open(struct ajit_driver *driver, const char *path, char *error, size_t error_bytes);

/* Whether the code means that the context is unusable from now on (a sticky error). */
int ajit_driver_is_sticky(CUresult code);

#endif
