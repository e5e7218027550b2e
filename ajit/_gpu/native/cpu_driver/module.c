/* Modules: images loaded with the system's dynamic linker, and their functions and globals.
 *
 * An image goes into a memory file and is loaded from /proc/self/fd. The linker tells libraries
 * apart by name first, and descriptor numbers are used again, so each load spells the path
 * differently; else a second module could silently be the first. The descriptor is closed at once:
 * the mapping keeps the file. A load that fails leaves nothing behind.
 */
#include "driver.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const uint64_t MODULE_MAGIC = 0x616a69742d6d6f64;   /* "ajit-mod" */
static const uint64_t FUNCTION_MAGIC = 0x616a69742d66756e; /* "ajit-fun" */
enum { SHARED_WITHOUT_OPT_IN = 49152 };

struct CUmod_st {
    uint64_t magic;
    CUcontext context; /* NULL: of a library */
    CUlibrary owner;   /* or NULL: of a context */
    void *library;     /* the dynamic linker's handle */
    const struct ajit_cpu_module *image;
    struct CUfunc_st *functions; /* one for each kernel, in the image's order */
    CUmodule next;
};

static CUmodule modules;

/* ---- loading ---- */

static CUresult make_file(const void *image, size_t bytes, int *file) {
    int descriptor = memfd_create("ajit-kernel", MFD_CLOEXEC);
    if (descriptor < 0) return CUDA_ERROR_OPERATING_SYSTEM;
    void *map = MAP_FAILED;
    if (ftruncate(descriptor, (off_t)bytes) == 0)
        map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    CUresult result = map != MAP_FAILED ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    if (result == CUDA_SUCCESS) {
        memcpy(map, image, bytes);
        result = cpu_elf_prepare(map, bytes);
        munmap(map, bytes);
    }
    if (result == CUDA_SUCCESS) *file = descriptor;
    else close(descriptor);
    return result;
}

/* A spelling of /proc/self/fd/N that was not used before: the bits of a serial number as "/" and
 * "/.". */
static void spell_path(char *path, size_t size, int descriptor) {
    static uint64_t serial;
    size_t used = (size_t)snprintf(path, size, "/proc/self/fd");
    for (uint64_t bits = ++serial; bits != 0; bits >>= 1)
        used += (size_t)snprintf(path + used, size - used, bits & 1 ? "/." : "/");
    snprintf(path + used, size - used, "/%d", descriptor);
}

static CUresult open_library(int descriptor, void **library) {
    char path[192];
    spell_path(path, sizeof path, descriptor);
    *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    return *library != NULL ? CUDA_SUCCESS : CUDA_ERROR_SHARED_OBJECT_INIT_FAILED;
}

static CUresult read_table(CUmodule module) {
    module->image = dlsym(module->library, "ajit_cpu_module");
    if (module->image == NULL) return CUDA_ERROR_INVALID_IMAGE;
    if (module->image->abi_version != AJIT_CPU_ABI_VERSION) return CUDA_ERROR_INVALID_PTX;
    unsigned count = module->image->kernel_count;
    module->functions = calloc(count ? count : 1, sizeof *module->functions);
    if (module->functions == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    for (unsigned i = 0; i < count; i++)
        module->functions[i] = (struct CUfunc_st){
            FUNCTION_MAGIC, module, &module->image->kernels[i], SHARED_WITHOUT_OPT_IN, false};
    return CUDA_SUCCESS;
}

static void destroy(CUmodule module) {
    module->magic = 0;
    if (module->library != NULL) dlclose(module->library);
    free(module->functions);
    free(module);
}

CUresult cpu_module_load(CUmodule *result_module, const void *image, CUcontext context,
                         CUlibrary owner) {
    size_t bytes;
    int descriptor;
    if (result_module == NULL || image == NULL) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = cpu_elf_size(image, &bytes);
    if (result == CUDA_SUCCESS) result = make_file(image, bytes, &descriptor);
    if (result != CUDA_SUCCESS) return result;
    CUmodule module = calloc(1, sizeof *module);
    result = module != NULL ? open_library(descriptor, &module->library) : CUDA_ERROR_OUT_OF_MEMORY;
    close(descriptor);
    if (result == CUDA_SUCCESS) result = read_table(module);
    if (result != CUDA_SUCCESS) {
        if (module != NULL) destroy(module);
        return result;
    }
    module->magic = MODULE_MAGIC;
    module->context = context;
    module->owner = owner;
    module->next = modules;
    *result_module = modules = module;
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    CPU_CALL(CPU_SETUP, cpu_module_load(module, image, cpu_current(), NULL));
}

/* Options concern PTX compilation and logs; an image has neither, so they are accepted and
 * ignored. */
CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions,
                            CUjit_option *options, void **optionValues) {
    (void)numOptions, (void)options, (void)optionValues;
    CPU_CALL(CPU_SETUP, cpu_module_load(module, image, cpu_current(), NULL));
}

/* ---- unloading ---- */

static CUresult find(CUmodule module) {
    for (CUmodule each = modules; each != NULL; each = each->next)
        if (each == module) return CUDA_SUCCESS;
    return CUDA_ERROR_INVALID_HANDLE;
}

static void unload_listed(CUmodule *link) {
    CUmodule module = *link;
    *link = module->next;
    destroy(module);
}

void cpu_module_unload(CUmodule module) {
    CUmodule *link = &modules;
    while (*link != module) link = &(*link)->next;
    unload_listed(link);
}

/* Waits for the device first: its code may be running. */
static CUresult unload(CUmodule module) {
    CUresult result = cpu_context_wait(cpu_current());
    if (result != CUDA_SUCCESS) return result;
    cpu_lock();
    result = find(module);
    if (result == CUDA_SUCCESS && module->owner != NULL) result = CUDA_ERROR_NOT_PERMITTED;
    if (result == CUDA_SUCCESS) cpu_module_unload(module);
    cpu_unlock();
    return result;
}

CUresult cuModuleUnload(CUmodule hmod) { CPU_CALL(CPU_FREE | CPU_UNSAFE, unload(hmod)); }

/* As with streams: the handles of functions must be told from valid ones after a reset. */
static CUmodule buried;

static void bury_listed(CUmodule *link) {
    CUmodule module = *link;
    *link = module->next;
    for (unsigned i = 0; i < module->image->kernel_count; i++) module->functions[i].magic = 0;
    dlclose(module->library);
    module->magic = 0;
    module->next = buried;
    buried = module;
}

void cpu_modules_unload(CUcontext context, bool bury) {
    CUmodule *link = &modules;
    while (*link != NULL) {
        if ((*link)->context == context && bury) bury_listed(link);
        else if ((*link)->context == context) unload_listed(link);
        else link = &(*link)->next;
    }
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode *mode) {
    if (mode == NULL) return CUDA_ERROR_INVALID_VALUE;
    *mode = CU_MODULE_EAGER_LOADING;
    return CUDA_SUCCESS;
}

/* ---- what is in a module ---- */

CUlibrary cpu_module_library(CUmodule module) { return module->owner; }

CUresult cpu_module_function(CUfunction *function, CUmodule module, const char *name) {
    if (function == NULL || name == NULL) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = find(module);
    if (result != CUDA_SUCCESS) return result;
    for (unsigned i = 0; i < module->image->kernel_count; i++)
        if (strcmp(module->image->kernels[i].name, name) == 0) {
            *function = &module->functions[i];
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}

CUresult cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name) {
    CPU_CALL(CPU_WORK, cpu_module_function(hfunc, hmod, name));
}

CUresult cpu_module_count(unsigned *count, CUmodule module) {
    CUresult result = find(module);
    if (count == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) *count = module->image->kernel_count;
    return result;
}

CUresult cuModuleGetFunctionCount(unsigned int *count, CUmodule mod) {
    CPU_CALL(CPU_WORK, cpu_module_count(count, mod));
}

CUresult cpu_module_functions(CUfunction *functions, unsigned count, CUmodule module) {
    CUresult result = find(module);
    if (functions == NULL) return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; result == CUDA_SUCCESS && i < count; i++)
        functions[i] = i < module->image->kernel_count ? &module->functions[i] : NULL;
    return result;
}

CUresult cuModuleEnumerateFunctions(CUfunction *functions, unsigned int numFunctions,
                                    CUmodule mod) {
    CPU_CALL(CPU_WORK, cpu_module_functions(functions, numFunctions, mod));
}

/* A data symbol of this very image: the linker also looks in the libraries that it needs. */
static bool find_object(CUmodule module, const char *name, void **address, size_t *bytes) {
    Dl_info info, own;
    const Elf64_Sym *symbol = NULL;
    *address = dlsym(module->library, name);
    if (*address == NULL) return false;
    if (!dladdr1(*address, &info, (void **)&symbol, RTLD_DL_SYMENT) || symbol == NULL) return false;
    if (!dladdr(module->image, &own) || own.dli_fbase != info.dli_fbase) return false;
    *bytes = symbol->st_size;
    return ELF64_ST_TYPE(symbol->st_info) == STT_OBJECT && info.dli_saddr == *address;
}

CUresult cpu_module_global(CUdeviceptr *pointer, size_t *bytes, CUmodule module, const char *name) {
    void *address;
    size_t size;
    if (name == NULL) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = find(module);
    if (result != CUDA_SUCCESS) return result;
    if (!find_object(module, name, &address, &size)) return CUDA_ERROR_NOT_FOUND;
    if (pointer != NULL) *pointer = (uintptr_t)address;
    if (bytes != NULL) *bytes = size;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name) {
    CPU_CALL(CPU_WORK, cpu_module_global(dptr, bytes, hmod, name));
}

/* ---- functions ---- */

CUresult cpu_function_find(CUfunction handle) {
    return handle != NULL && handle->magic == FUNCTION_MAGIC ? CUDA_SUCCESS
                                                             : CUDA_ERROR_INVALID_HANDLE;
}
