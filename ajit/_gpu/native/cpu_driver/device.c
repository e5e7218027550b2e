/* Devices: how many, what they are called and what they can do. AJIT_CPU_DEVICES pretends more than
 * one. */
#include "driver.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { DRIVER_VERSION = 13000 };
static const uint64_t DEFAULT_MEMORY_BYTES = 2ull << 30;

/* By CUdevice_attribute. What is not listed is 0: the CPU driver does not have it. Compute
 * capability 7.5 is the oldest that CUDA 13 knows, and what ../cuda_cxx/kernel.hpp's __CUDA_ARCH__
 * says: code that asks for more takes a path with inline PTX. */
static const int attributes[] = {
    [1] = 1024,                       /* MAX_THREADS_PER_BLOCK */
    [2] = 1024,                       /* MAX_BLOCK_DIM_X */
    [3] = 1024,                       /* MAX_BLOCK_DIM_Y */
    [4] = 64,                         /* MAX_BLOCK_DIM_Z */
    [5] = 2147483647,                 /* MAX_GRID_DIM_X */
    [6] = 65535,                      /* MAX_GRID_DIM_Y */
    [7] = 65535,                      /* MAX_GRID_DIM_Z */
    [8] = 49152,                      /* MAX_SHARED_MEMORY_PER_BLOCK */
    [9] = 65536,                      /* TOTAL_CONSTANT_MEMORY */
    [10] = 32,                        /* WARP_SIZE */
    [11] = 2147483647,                /* MAX_PITCH */
    [12] = 65536,                     /* MAX_REGISTERS_PER_BLOCK */
    [13] = 1000000,                   /* CLOCK_RATE, kHz: clock64() counts nanoseconds */
    [14] = 512,                       /* TEXTURE_ALIGNMENT */
    [15] = 1,                         /* GPU_OVERLAP */
    [18] = 1,                         /* INTEGRATED */
    [19] = 1,                         /* CAN_MAP_HOST_MEMORY */
    [31] = 1,                         /* CONCURRENT_KERNELS */
    [39] = 1024,                      /* MAX_THREADS_PER_MULTIPROCESSOR */
    [40] = 1,                         /* ASYNC_ENGINE_COUNT */
    [41] = 1,                         /* UNIFIED_ADDRESSING */
    [75] = 7,                         /* COMPUTE_CAPABILITY_MAJOR */
    [76] = 5,                         /* COMPUTE_CAPABILITY_MINOR */
    [78] = 1,                         /* STREAM_PRIORITIES_SUPPORTED */
    [81] = 233472,                    /* MAX_SHARED_MEMORY_PER_MULTIPROCESSOR */
    [82] = 65536,                     /* MAX_REGISTERS_PER_MULTIPROCESSOR */
    [90] = 1,                         /* COMPUTE_PREEMPTION_SUPPORTED */
    [91] = 1,                         /* CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM */
    [97] = AJIT_CPU_MAX_SHARED_BYTES, /* MAX_SHARED_MEMORY_PER_BLOCK_OPTIN */
    [99] = 1,                         /* HOST_REGISTER_SUPPORTED */
    [106] = 16,                       /* MAX_BLOCKS_PER_MULTIPROCESSOR */
    [111] = 1024,                     /* RESERVED_SHARED_MEMORY_PER_BLOCK */
    [115] = 1,                        /* MEMORY_POOLS_SUPPORTED */
    [120] = 1,                        /* CLUSTER_LAUNCH */
    [144] = 1,                        /* HOST_MEMORY_POOLS_SUPPORTED */
    [147] = 0,                        /* the last one CUDA 13.0 knows */
};
enum { ATTRIBUTE_COUNT = sizeof attributes / sizeof *attributes, PCI_DEVICE_ID = 34, CORES = 16 };

int cpu_device_count(void) { return (int)cpu_setting("AJIT_CPU_DEVICES", 1, 1, CPU_MAX_DEVICES); }

uint64_t cpu_device_memory_bytes(void) {
    return cpu_setting("AJIT_CPU_MEMORY_BYTES", DEFAULT_MEMORY_BYTES, 1, UINT64_MAX);
}

static bool known(CUdevice dev) { return dev >= 0 && dev < cpu_device_count(); }

static CUresult get_version(int *version) {
    if (version == NULL) return CUDA_ERROR_INVALID_VALUE;
    *version = DRIVER_VERSION;
    return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *driverVersion) { CPU_CALL(CPU_EARLY, get_version(driverVersion)); }

static CUresult get_count(int *count) {
    if (count == NULL) return CUDA_ERROR_INVALID_VALUE;
    *count = cpu_device_count();
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) { CPU_CALL(0, get_count(count)); }

static CUresult get_device(CUdevice *device, int ordinal) {
    if (device == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (!known(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) { CPU_CALL(0, get_device(device, ordinal)); }

static CUresult get_name(char *name, int len, CUdevice dev) {
    if (name == NULL || len <= 0) return CUDA_ERROR_INVALID_VALUE;
    if (!known(dev)) return CUDA_ERROR_INVALID_DEVICE;
    snprintf(name, (size_t)len, "ajit CPU device %d", dev);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int len, CUdevice dev) {
    CPU_CALL(0, get_name(name, len, dev));
}

static CUresult get_uuid(CUuuid *uuid, CUdevice dev) {
    static const char prefix[16] = "ajit-cpu-device";
    if (uuid == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (!known(dev)) return CUDA_ERROR_INVALID_DEVICE;
    memcpy(uuid->bytes, prefix, sizeof prefix);
    uuid->bytes[15] = (char)dev;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice dev) { CPU_CALL(0, get_uuid(uuid, dev)); }

static CUresult get_attribute(int *pi, unsigned attribute, CUdevice dev) {
    if (pi == NULL || attribute == 0 || attribute >= ATTRIBUTE_COUNT)
        return CUDA_ERROR_INVALID_VALUE;
    if (!known(dev)) return CUDA_ERROR_INVALID_DEVICE;
    *pi = attributes[attribute];
    if (attribute == CORES) *pi = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (attribute == PCI_DEVICE_ID) *pi = dev;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev) {
    CPU_CALL(0, get_attribute(pi, attrib, dev));
}

static CUresult get_total_memory(size_t *bytes, CUdevice dev) {
    if (bytes == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (!known(dev)) return CUDA_ERROR_INVALID_DEVICE;
    *bytes = cpu_device_memory_bytes();
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev) {
    CPU_CALL(0, get_total_memory(bytes, dev));
}

static CUresult get_capability(int *major, int *minor, CUdevice dev) {
    CUresult result = get_attribute(major, 75, dev);
    return result == CUDA_SUCCESS ? get_attribute(minor, 76, dev) : result;
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice dev) {
    CPU_CALL(0, get_capability(major, minor, dev));
}

static CUresult get_pci_bus_id(char *id, int len, CUdevice dev) {
    if (id == NULL || len <= 0) return CUDA_ERROR_INVALID_VALUE;
    if (!known(dev)) return CUDA_ERROR_INVALID_DEVICE;
    snprintf(id, (size_t)len, "0000:00:%02x.0", (unsigned)dev);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char *pciBusId, int len, CUdevice dev) {
    CPU_CALL(0, get_pci_bus_id(pciBusId, len, dev));
}

static CUresult get_peer(int *can, CUdevice dev, CUdevice peer) {
    if (can == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (!known(dev) || !known(peer)) return CUDA_ERROR_INVALID_DEVICE;
    *can = dev != peer;
    return CUDA_SUCCESS;
}

CUresult cuDeviceCanAccessPeer(int *canAccessPeer, CUdevice dev, CUdevice peerDev) {
    CPU_CALL(0, get_peer(canAccessPeer, dev, peerDev));
}
