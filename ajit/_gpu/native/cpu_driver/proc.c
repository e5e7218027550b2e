/* cuGetProcAddress: the exported functions by base name, and the CUDA version that their signature
 * came with. cuGetExportTable: NVIDIA's tables without a public description, of which there are
 * none here. */
#include "driver.h"

#include <string.h>

typedef struct entry {
    const char *name;
    int version;
    void (*function)(void);
} entry;

/* A cast between function pointer types is all that the API asks for. */
#define ENTRY(name, version, function) {#name, version, (void (*)(void))(function)}

/* Sorted by name and version: of several versions, the newest that the caller knows is handed
 * out. */
static const entry entries[] = {
    ENTRY(cuCtxDisablePeerAccess, 4000, cuCtxDisablePeerAccess),
    ENTRY(cuCtxEnablePeerAccess, 4000, cuCtxEnablePeerAccess),
    ENTRY(cuCtxGetApiVersion, 3020, cuCtxGetApiVersion),
    ENTRY(cuCtxGetCurrent, 4000, cuCtxGetCurrent),
    ENTRY(cuCtxGetDevice, 2000, cuCtxGetDevice),
    ENTRY(cuCtxGetDevice, 13000, cuCtxGetDevice_v2),
    ENTRY(cuCtxGetFlags, 7000, cuCtxGetFlags),
    ENTRY(cuCtxGetId, 12000, cuCtxGetId),
    ENTRY(cuCtxGetStreamPriorityRange, 5050, cuCtxGetStreamPriorityRange),
    ENTRY(cuCtxPopCurrent, 4000, cuCtxPopCurrent_v2),
    ENTRY(cuCtxPushCurrent, 4000, cuCtxPushCurrent_v2),
    ENTRY(cuCtxSetCurrent, 4000, cuCtxSetCurrent),
    ENTRY(cuCtxSynchronize, 2000, cuCtxSynchronize),
    ENTRY(cuCtxSynchronize, 13000, cuCtxSynchronize_v2),
    ENTRY(cuDeviceCanAccessPeer, 4000, cuDeviceCanAccessPeer),
    ENTRY(cuDeviceComputeCapability, 2000, cuDeviceComputeCapability),
    ENTRY(cuDeviceGet, 2000, cuDeviceGet),
    ENTRY(cuDeviceGetAttribute, 2000, cuDeviceGetAttribute),
    ENTRY(cuDeviceGetCount, 2000, cuDeviceGetCount),
    ENTRY(cuDeviceGetDefaultMemPool, 11020, cuDeviceGetDefaultMemPool),
    ENTRY(cuDeviceGetMemPool, 11020, cuDeviceGetMemPool),
    ENTRY(cuDeviceGetName, 2000, cuDeviceGetName),
    ENTRY(cuDeviceGetPCIBusId, 4010, cuDeviceGetPCIBusId),
    ENTRY(cuDeviceGetUuid, 11040, cuDeviceGetUuid_v2),
    ENTRY(cuDevicePrimaryCtxGetState, 7000, cuDevicePrimaryCtxGetState),
    ENTRY(cuDevicePrimaryCtxRelease, 11000, cuDevicePrimaryCtxRelease_v2),
    ENTRY(cuDevicePrimaryCtxReset, 11000, cuDevicePrimaryCtxReset_v2),
    ENTRY(cuDevicePrimaryCtxRetain, 7000, cuDevicePrimaryCtxRetain),
    ENTRY(cuDevicePrimaryCtxSetFlags, 11000, cuDevicePrimaryCtxSetFlags_v2),
    ENTRY(cuDeviceSetMemPool, 11020, cuDeviceSetMemPool),
    ENTRY(cuDeviceTotalMem, 3020, cuDeviceTotalMem_v2),
    ENTRY(cuDriverGetVersion, 2020, cuDriverGetVersion),
    ENTRY(cuEventCreate, 2000, cuEventCreate),
    ENTRY(cuEventDestroy, 4000, cuEventDestroy_v2),
    ENTRY(cuEventElapsedTime, 2000, cuEventElapsedTime_v2),
    ENTRY(cuEventElapsedTime, 12080, cuEventElapsedTime_v2),
    ENTRY(cuEventQuery, 2000, cuEventQuery),
    ENTRY(cuEventRecord, 2000, cuEventRecord),
    ENTRY(cuEventRecordWithFlags, 11010, cuEventRecordWithFlags),
    ENTRY(cuEventSynchronize, 2000, cuEventSynchronize),
    ENTRY(cuFuncGetAttribute, 2020, cuFuncGetAttribute),
    ENTRY(cuFuncGetModule, 11000, cuFuncGetModule),
    ENTRY(cuFuncGetName, 12030, cuFuncGetName),
    ENTRY(cuFuncGetParamInfo, 12040, cuFuncGetParamInfo),
    ENTRY(cuFuncIsLoaded, 12040, cuFuncIsLoaded),
    ENTRY(cuFuncLoad, 12040, cuFuncLoad),
    ENTRY(cuFuncSetAttribute, 9000, cuFuncSetAttribute),
    ENTRY(cuGetErrorName, 6000, cuGetErrorName),
    ENTRY(cuGetErrorString, 6000, cuGetErrorString),
    ENTRY(cuGetExportTable, 3000, cuGetExportTable),
    ENTRY(cuGetProcAddress, 12000, cuGetProcAddress_v2),
    ENTRY(cuGraphDestroy, 10000, cuGraphDestroy),
    ENTRY(cuGraphExecDestroy, 10000, cuGraphExecDestroy),
    ENTRY(cuGraphGetEdges, 12030, cuGraphGetEdges_v2),
    ENTRY(cuGraphGetNodes, 10000, cuGraphGetNodes),
    ENTRY(cuGraphInstantiate, 12000, cuGraphInstantiateWithFlags),
    ENTRY(cuGraphInstantiateWithFlags, 11040, cuGraphInstantiateWithFlags),
    ENTRY(cuGraphInstantiateWithParams, 12000, cuGraphInstantiateWithParams),
    ENTRY(cuGraphLaunch, 10000, cuGraphLaunch),
    ENTRY(cuGraphNodeGetType, 10000, cuGraphNodeGetType),
    ENTRY(cuGraphUpload, 11010, cuGraphUpload),
    ENTRY(cuInit, 2000, cuInit),
    ENTRY(cuIpcCloseMemHandle, 4010, cuIpcCloseMemHandle),
    ENTRY(cuIpcGetEventHandle, 4010, cuIpcGetEventHandle),
    ENTRY(cuIpcGetMemHandle, 4010, cuIpcGetMemHandle),
    ENTRY(cuIpcOpenEventHandle, 4010, cuIpcOpenEventHandle),
    ENTRY(cuIpcOpenMemHandle, 11000, cuIpcOpenMemHandle_v2),
    ENTRY(cuKernelGetAttribute, 12000, cuKernelGetAttribute),
    ENTRY(cuKernelGetFunction, 12000, cuKernelGetFunction),
    ENTRY(cuKernelGetLibrary, 12050, cuKernelGetLibrary),
    ENTRY(cuKernelGetName, 12030, cuKernelGetName),
    ENTRY(cuKernelGetParamInfo, 12040, cuKernelGetParamInfo),
    ENTRY(cuKernelSetAttribute, 12000, cuKernelSetAttribute),
    ENTRY(cuLaunchHostFunc, 10000, cuLaunchHostFunc),
    ENTRY(cuLaunchKernel, 4000, cuLaunchKernel),
    ENTRY(cuLaunchKernelEx, 11060, cuLaunchKernelEx),
    ENTRY(cuLibraryEnumerateKernels, 12040, cuLibraryEnumerateKernels),
    ENTRY(cuLibraryGetGlobal, 12000, cuLibraryGetGlobal),
    ENTRY(cuLibraryGetKernel, 12000, cuLibraryGetKernel),
    ENTRY(cuLibraryGetKernelCount, 12040, cuLibraryGetKernelCount),
    ENTRY(cuLibraryGetModule, 12000, cuLibraryGetModule),
    ENTRY(cuLibraryLoadData, 12000, cuLibraryLoadData),
    ENTRY(cuLibraryUnload, 12000, cuLibraryUnload),
    ENTRY(cuMemAlloc, 3020, cuMemAlloc_v2),
    ENTRY(cuMemAllocAsync, 11020, cuMemAllocAsync),
    ENTRY(cuMemAllocFromPoolAsync, 11020, cuMemAllocFromPoolAsync),
    ENTRY(cuMemAllocHost, 3020, cuMemAllocHost_v2),
    ENTRY(cuMemFree, 3020, cuMemFree_v2),
    ENTRY(cuMemFreeAsync, 11020, cuMemFreeAsync),
    ENTRY(cuMemFreeHost, 2000, cuMemFreeHost),
    ENTRY(cuMemGetAddressRange, 3020, cuMemGetAddressRange_v2),
    ENTRY(cuMemGetDefaultMemPool, 13000, cuMemGetDefaultMemPool),
    ENTRY(cuMemGetInfo, 3020, cuMemGetInfo_v2),
    ENTRY(cuMemGetMemPool, 13000, cuMemGetMemPool),
    ENTRY(cuMemHostAlloc, 2020, cuMemHostAlloc),
    ENTRY(cuMemHostGetDevicePointer, 3020, cuMemHostGetDevicePointer_v2),
    ENTRY(cuMemHostRegister, 6050, cuMemHostRegister_v2),
    ENTRY(cuMemHostUnregister, 4000, cuMemHostUnregister),
    ENTRY(cuMemPoolCreate, 11020, cuMemPoolCreate),
    ENTRY(cuMemPoolDestroy, 11020, cuMemPoolDestroy),
    ENTRY(cuMemPoolGetAccess, 11020, cuMemPoolGetAccess),
    ENTRY(cuMemPoolGetAttribute, 11020, cuMemPoolGetAttribute),
    ENTRY(cuMemPoolSetAccess, 11020, cuMemPoolSetAccess),
    ENTRY(cuMemPoolSetAttribute, 11020, cuMemPoolSetAttribute),
    ENTRY(cuMemPoolTrimTo, 11020, cuMemPoolTrimTo),
    ENTRY(cuMemSetMemPool, 13000, cuMemSetMemPool),
    ENTRY(cuMemcpy, 4000, cuMemcpy),
    ENTRY(cuMemcpyAsync, 4000, cuMemcpyAsync),
    ENTRY(cuMemcpyBatchAsync, 13000, cuMemcpyBatchAsync_v2),
    ENTRY(cuMemcpyDtoD, 3020, cuMemcpyDtoD_v2),
    ENTRY(cuMemcpyDtoDAsync, 3020, cuMemcpyDtoDAsync_v2),
    ENTRY(cuMemcpyDtoH, 3020, cuMemcpyDtoH_v2),
    ENTRY(cuMemcpyDtoHAsync, 3020, cuMemcpyDtoHAsync_v2),
    ENTRY(cuMemcpyHtoD, 3020, cuMemcpyHtoD_v2),
    ENTRY(cuMemcpyHtoDAsync, 3020, cuMemcpyHtoDAsync_v2),
    ENTRY(cuMemsetD16, 3020, cuMemsetD16_v2),
    ENTRY(cuMemsetD16Async, 3020, cuMemsetD16Async),
    ENTRY(cuMemsetD32, 3020, cuMemsetD32_v2),
    ENTRY(cuMemsetD32Async, 3020, cuMemsetD32Async),
    ENTRY(cuMemsetD8, 3020, cuMemsetD8_v2),
    ENTRY(cuMemsetD8Async, 3020, cuMemsetD8Async),
    ENTRY(cuModuleEnumerateFunctions, 12040, cuModuleEnumerateFunctions),
    ENTRY(cuModuleGetFunction, 2000, cuModuleGetFunction),
    ENTRY(cuModuleGetFunctionCount, 12040, cuModuleGetFunctionCount),
    ENTRY(cuModuleGetGlobal, 3020, cuModuleGetGlobal_v2),
    ENTRY(cuModuleGetLoadingMode, 11070, cuModuleGetLoadingMode),
    ENTRY(cuModuleLoadData, 2000, cuModuleLoadData),
    ENTRY(cuModuleLoadDataEx, 2010, cuModuleLoadDataEx),
    ENTRY(cuModuleUnload, 2000, cuModuleUnload),
    ENTRY(cuOccupancyMaxActiveBlocksPerMultiprocessor, 6050,
          cuOccupancyMaxActiveBlocksPerMultiprocessor),
    ENTRY(cuPointerGetAttribute, 4000, cuPointerGetAttribute),
    ENTRY(cuPointerGetAttributes, 7000, cuPointerGetAttributes),
    ENTRY(cuStreamBeginCapture, 10010, cuStreamBeginCapture_v2),
    ENTRY(cuStreamCreate, 2000, cuStreamCreate),
    ENTRY(cuStreamCreateWithPriority, 5050, cuStreamCreateWithPriority),
    ENTRY(cuStreamDestroy, 4000, cuStreamDestroy_v2),
    ENTRY(cuStreamEndCapture, 10000, cuStreamEndCapture),
    ENTRY(cuStreamGetCaptureInfo, 12030, cuStreamGetCaptureInfo_v3),
    ENTRY(cuStreamGetCtx, 9020, cuStreamGetCtx),
    ENTRY(cuStreamGetDevice, 12080, cuStreamGetDevice),
    ENTRY(cuStreamGetFlags, 5050, cuStreamGetFlags),
    ENTRY(cuStreamGetId, 12000, cuStreamGetId),
    ENTRY(cuStreamGetPriority, 5050, cuStreamGetPriority),
    ENTRY(cuStreamIsCapturing, 10000, cuStreamIsCapturing),
    ENTRY(cuStreamQuery, 2000, cuStreamQuery),
    ENTRY(cuStreamSynchronize, 2000, cuStreamSynchronize),
    ENTRY(cuStreamWaitEvent, 3020, cuStreamWaitEvent),
    ENTRY(cuThreadExchangeStreamCaptureMode, 10010, cuThreadExchangeStreamCaptureMode),
};

static const entry *find(const char *name, int version, bool *known) {
    const entry *found = NULL;
    *known = false;
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        if (strcmp(entries[i].name, name) != 0) continue;
        *known = true;
        if (version >= entries[i].version) found = &entries[i];
    }
    return found;
}

/* An unknown name is no error, as documented: *pfn is NULL, and the status says why. */
static CUresult get_address(const char *name, void **function, int version, uint64_t flags,
                            CUdriverProcAddressQueryResult *status) {
    if (name == NULL || function == NULL || flags > 2 || version > CUDA_VERSION + 999)
        return CUDA_ERROR_INVALID_VALUE;
    bool known;
    const entry *found = find(name, version, &known);
    *function = NULL;
    if (found != NULL) memcpy(function, &found->function, sizeof *function);
    if (status == NULL) return CUDA_SUCCESS;
    if (found != NULL) *status = CU_GET_PROC_ADDRESS_SUCCESS;
    else if (known) *status = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
    else *status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return CUDA_SUCCESS;
}

CUresult cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *symbolStatus) {
    CPU_CALL(CPU_EARLY, get_address(symbol, pfn, cudaVersion, flags, symbolStatus));
}

/* NVIDIA's libraries (NVRTC, the runtime) call it without a look whether it is there, and do
 * without the table that they get an error for. */
static CUresult get_table(const void **table, const CUuuid *id) {
    if (table == NULL || id == NULL) return CUDA_ERROR_INVALID_VALUE;
    *table = NULL;
    return CUDA_ERROR_NOT_FOUND;
}

CUresult cuGetExportTable(const void **ppExportTable, const CUuuid *pExportTableId) {
    CPU_CALL(CPU_EARLY, get_table(ppExportTable, pExportTableId));
}
