/* What can be asked and set of a function. Functions are always loaded: modules are loaded
 * eagerly. */
#include "driver.h"

enum { BINARY_VERSION = 75, SHARED_WITHOUT_OPT_IN = 49152 };

CUresult cuFuncLoad(CUfunction function) { CPU_CALL(CPU_SETUP, cpu_function_find(function)); }

static CUresult is_loaded(CUfunctionLoadingState *state, CUfunction function) {
    CUresult result = cpu_function_find(function);
    if (state == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) *state = CU_FUNCTION_LOADING_STATE_LOADED;
    return result;
}

CUresult cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function) {
    CPU_CALL(CPU_WORK, is_loaded(state, function));
}

CUresult cpu_function_name(const char **name, CUfunction function) {
    CUresult result = cpu_function_find(function);
    if (name == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) *name = function->kernel->name;
    return result;
}

CUresult cuFuncGetName(const char **name, CUfunction hfunc) {
    CPU_CALL(CPU_WORK, cpu_function_name(name, hfunc));
}

static CUresult get_module(CUmodule *module, CUfunction function) {
    CUresult result = cpu_function_find(function);
    if (module == NULL) return CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) *module = function->module;
    return result;
}

CUresult cuFuncGetModule(CUmodule *hmod, CUfunction hfunc) {
    CPU_CALL(CPU_WORK, get_module(hmod, hfunc));
}

CUresult cpu_function_param(CUfunction function, size_t index, size_t *offset, size_t *size) {
    CUresult result = cpu_function_find(function);
    if (result != CUDA_SUCCESS) return result;
    if (offset == NULL || index >= function->kernel->param_count) return CUDA_ERROR_INVALID_VALUE;
    *offset = function->kernel->params[index].offset;
    if (size != NULL) *size = function->kernel->params[index].size;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetParamInfo(CUfunction func, size_t paramIndex, size_t *paramOffset,
                            size_t *paramSize) {
    CPU_CALL(CPU_WORK, cpu_function_param(func, paramIndex, paramOffset, paramSize));
}

CUresult cpu_function_attribute(int *value, unsigned attribute, CUfunction function) {
    CUresult result = cpu_function_find(function);
    if (result != CUDA_SUCCESS) return result;
    if (value == NULL || attribute >= CU_FUNC_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = AJIT_CPU_MAX_THREADS; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *value = function->max_dynamic_shared;
        break;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        *value = function->large_clusters;
        break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = BINARY_VERSION; break;
    default: *value = 0; /* registers, local, constant and static shared memory: not known */
    }
    return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int *pi, CUfunction_attribute attrib, CUfunction hfunc) {
    CPU_CALL(CPU_WORK, cpu_function_attribute(pi, attrib, hfunc));
}

CUresult cpu_function_set_attribute(CUfunction function, unsigned attribute, int value) {
    CUresult result = cpu_function_find(function);
    if (result != CUDA_SUCCESS) return result;
    if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) /* a hint */
        return value >= -1 && value <= 100 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    if (attribute == CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED) {
        function->large_clusters = value != 0;
        return CUDA_SUCCESS;
    }
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
        return CUDA_ERROR_INVALID_VALUE;
    if (value < 0 || (unsigned)value > AJIT_CPU_MAX_SHARED_BYTES) return CUDA_ERROR_INVALID_VALUE;
    function->max_dynamic_shared = value > SHARED_WITHOUT_OPT_IN ? value : SHARED_WITHOUT_OPT_IN;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value) {
    CPU_CALL(CPU_WORK, cpu_function_set_attribute(hfunc, attrib, value));
}

static CUresult get_occupancy(int *blocks, CUfunction function, int block_size, size_t shared) {
    CUresult result = cpu_function_find(function);
    if (result != CUDA_SUCCESS) return result;
    if (blocks == NULL || block_size <= 0) return CUDA_ERROR_INVALID_VALUE;
    bool fits = block_size <= (int)AJIT_CPU_MAX_THREADS && shared <= AJIT_CPU_MAX_SHARED_BYTES;
    *blocks = fits; /* a core runs one block at a time */
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *numBlocks, CUfunction func, int blockSize,
                                                     size_t dynamicSMemSize) {
    CPU_CALL(CPU_WORK, get_occupancy(numBlocks, func, blockSize, dynamicSMemSize));
}
