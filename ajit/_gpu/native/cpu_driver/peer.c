/* Other devices and other processes.
 *
 * All devices here share one address space, so access to a peer is granted and changes nothing.
 * Memory and events cannot be shared with another process: those calls say so.
 */
#include "driver.h"

static bool granted[CPU_MAX_DEVICES][CPU_MAX_DEVICES]; /* guarded by the driver lock */

static CUresult change(CUcontext peer, bool allow, CUresult already) {
    CUcontext own = cpu_current();
    bool is_peer = false;
    for (int device = 0; device < cpu_device_count(); device++)
        is_peer |= peer == cpu_context(device) && peer->active;
    if (!is_peer) return CUDA_ERROR_INVALID_CONTEXT;
    if (peer == own) return CUDA_ERROR_INVALID_DEVICE;
    if (granted[own->device][peer->device] == allow) return already;
    granted[own->device][peer->device] = allow;
    return CUDA_SUCCESS;
}

static CUresult enable(CUcontext peer, unsigned flags) {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    return change(peer, true, CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
}

CUresult cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags) {
    CPU_CALL(CPU_WORK, enable(peerContext, Flags));
}

CUresult cuCtxDisablePeerAccess(CUcontext peerContext) {
    CPU_CALL(CPU_WORK, change(peerContext, false, CUDA_ERROR_PEER_ACCESS_NOT_ENABLED));
}

/* ---- other processes ---- */

CUresult cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr) {
    (void)pHandle, (void)dptr;
    CPU_CALL(CPU_WORK, CUDA_ERROR_NOT_SUPPORTED);
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags) {
    (void)pdptr, (void)handle, (void)Flags;
    CPU_CALL(CPU_WORK, CUDA_ERROR_NOT_SUPPORTED);
}

CUresult cuIpcCloseMemHandle(CUdeviceptr dptr) {
    (void)dptr;
    CPU_CALL(CPU_WORK, CUDA_ERROR_NOT_SUPPORTED);
}

CUresult cuIpcGetEventHandle(CUipcEventHandle *pHandle, CUevent event) {
    (void)pHandle, (void)event;
    CPU_CALL(CPU_WORK, CUDA_ERROR_NOT_SUPPORTED);
}

CUresult cuIpcOpenEventHandle(CUevent *phEvent, CUipcEventHandle handle) {
    (void)phEvent, (void)handle;
    CPU_CALL(CPU_WORK, CUDA_ERROR_NOT_SUPPORTED);
}
