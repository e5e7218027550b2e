/* Libraries and kernels: modules that belong to no context.
 *
 * A library is loaded once, for all devices: they share one address space and one instruction set,
 * so its module is the same in each. Its globals are shared too, where NVIDIA's driver has one copy
 * a device. A kernel's handle is its function's, which NVIDIA's driver allows programs to assume at
 * launches. The module that a library hands out cannot be unloaded by itself.
 */
#include "driver.h"

#include <stdlib.h>

static const uint64_t MAGIC = 0x616a69742d6c6962; /* "ajit-lib" */

struct CUlib_st {
    uint64_t magic;
    CUmodule module;
};

static CUresult find(CUlibrary library) {
    return library != NULL && library->magic == MAGIC ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

static CUresult load(CUlibrary *result_library, const void *code) {
    if (result_library == NULL) return CUDA_ERROR_INVALID_VALUE;
    CUlibrary library = calloc(1, sizeof *library);
    if (library == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = cpu_module_load(&library->module, code, NULL, library);
    if (result != CUDA_SUCCESS) {
        free(library);
        return result;
    }
    library->magic = MAGIC;
    *result_library = library;
    return CUDA_SUCCESS;
}

/* Options concern PTX compilation, or are hints about memory: ignored. */
CUresult cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions,
                           void **jitOptionsValues, unsigned int numJitOptions,
                           CUlibraryOption *libraryOptions, void **libraryOptionValues,
                           unsigned int numLibraryOptions) {
    (void)jitOptions, (void)jitOptionsValues, (void)numJitOptions;
    (void)libraryOptions, (void)libraryOptionValues, (void)numLibraryOptions;
    CPU_CALL(CPU_LOCKED | CPU_UNSAFE, load(library, code));
}

/* Waits for all devices first: its code may be running on any. */
static CUresult unload(CUlibrary library) {
    for (int device = 0; device < cpu_device_count(); device++)
        cpu_context_wait(cpu_context(device));
    cpu_lock();
    CUresult result = find(library);
    if (result == CUDA_SUCCESS) {
        library->magic = 0;
        cpu_module_unload(library->module);
        free(library);
    }
    cpu_unlock();
    return result;
}

CUresult cuLibraryUnload(CUlibrary library) { CPU_CALL(CPU_UNSAFE, unload(library)); }

static CUresult get_kernel(CUkernel *kernel, CUlibrary library, const char *name) {
    CUresult result = find(library);
    if (kernel == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS) return result;
    return cpu_module_function((CUfunction *)kernel, library->module, name);
}

CUresult cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name) {
    CPU_CALL(CPU_LOCKED, get_kernel(pKernel, library, name));
}

static CUresult get_count(unsigned *count, CUlibrary library) {
    CUresult result = find(library);
    return result == CUDA_SUCCESS ? cpu_module_count(count, library->module) : result;
}

CUresult cuLibraryGetKernelCount(unsigned int *count, CUlibrary lib) {
    CPU_CALL(CPU_LOCKED, get_count(count, lib));
}

static CUresult enumerate(CUkernel *kernels, unsigned count, CUlibrary library) {
    CUresult result = find(library);
    if (result != CUDA_SUCCESS) return result;
    return cpu_module_functions((CUfunction *)kernels, count, library->module);
}

CUresult cuLibraryEnumerateKernels(CUkernel *kernels, unsigned int numKernels, CUlibrary lib) {
    CPU_CALL(CPU_LOCKED, enumerate(kernels, numKernels, lib));
}

static CUresult get_module(CUmodule *module, CUlibrary library) {
    CUresult result = find(library);
    if (module == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) *module = library->module;
    return result;
}

CUresult cuLibraryGetModule(CUmodule *pMod, CUlibrary library) {
    CPU_CALL(CPU_WORK, get_module(pMod, library));
}

static CUresult get_global(CUdeviceptr *pointer, size_t *bytes, CUlibrary library,
                           const char *name) {
    CUresult result = find(library);
    return result == CUDA_SUCCESS ? cpu_module_global(pointer, bytes, library->module, name)
                                  : result;
}

CUresult cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name) {
    CPU_CALL(CPU_WORK, get_global(dptr, bytes, library, name));
}

/* ---- kernels ---- */

static CUresult get_function(CUfunction *function, CUkernel kernel) {
    CUresult result = cpu_function_find((CUfunction)kernel);
    if (function == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) *function = (CUfunction)kernel;
    return result;
}

CUresult cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel) {
    CPU_CALL(CPU_WORK, get_function(pFunc, kernel));
}

static CUresult get_library(CUlibrary *library, CUkernel kernel) {
    CUresult result = cpu_function_find((CUfunction)kernel);
    if (library == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS) return result;
    *library = cpu_module_library(((CUfunction)kernel)->module);
    return *library != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuKernelGetLibrary(CUlibrary *pLib, CUkernel kernel) {
    CPU_CALL(CPU_LOCKED, get_library(pLib, kernel));
}

CUresult cuKernelGetName(const char **name, CUkernel hfunc) {
    CPU_CALL(CPU_LOCKED, cpu_function_name(name, (CUfunction)hfunc));
}

CUresult cuKernelGetParamInfo(CUkernel kernel, size_t paramIndex, size_t *paramOffset,
                              size_t *paramSize) {
    CPU_CALL(CPU_LOCKED,
             cpu_function_param((CUfunction)kernel, paramIndex, paramOffset, paramSize));
}

static CUresult check_device(CUdevice dev) {
    return dev >= 0 && dev < cpu_device_count() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

static CUresult get_attribute(int *value, unsigned attribute, CUkernel kernel, CUdevice dev) {
    CUresult result = check_device(dev);
    if (result != CUDA_SUCCESS) return result;
    return cpu_function_attribute(value, attribute, (CUfunction)kernel);
}

CUresult cuKernelGetAttribute(int *pi, CUfunction_attribute attrib, CUkernel kernel, CUdevice dev) {
    CPU_CALL(CPU_LOCKED, get_attribute(pi, attrib, kernel, dev));
}

static CUresult set_attribute(unsigned attribute, int value, CUkernel kernel, CUdevice dev) {
    CUresult result = check_device(dev);
    if (result != CUDA_SUCCESS) return result;
    return cpu_function_set_attribute((CUfunction)kernel, attribute, value);
}

CUresult cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel, CUdevice dev) {
    CPU_CALL(CPU_LOCKED, set_attribute(attrib, val, kernel, dev));
}
