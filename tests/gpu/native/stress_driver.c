/* Several threads drive the CPU driver at once: for the sanitizers. Usage: stress_driver IMAGE
 * ROUNDS.
 *
 * Each thread has its streams, buffers and events, and shares the context, a module and the pool
 * with the others. Exits 0 if every result is right.
 */
#include "cpu_driver/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 4, COUNT = 96, BYTES = COUNT * sizeof(int) };

static CUcontext context;
static CUfunction turn; /* x[i] = x[n - 1 - i] + 1, with barriers and a shuffle on the way */
static char *image;
static int rounds;
static _Atomic int callbacks;

static void ok(CUresult result, const char *what, int line) {
    if (result == CUDA_SUCCESS) return;
    fprintf(stderr, "line %d: %s: error %d\n", line, what, (int)result);
    exit(2);
}
#define OK(call) ok(call, #call, __LINE__)

static void count_call(void *unused) {
    (void)unused;
    atomic_fetch_add(&callbacks, 1);
}

static void launch(CUdeviceptr memory, CUstream stream) {
    int count = COUNT;
    void *params[] = {&memory, &count};
    OK(cuLaunchKernel(turn, 1, 1, 1, COUNT, 1, 1, BYTES, stream, params, NULL));
}

/* Upload, two launches in two streams, download: every element is two more at its old place. */
static void work(CUstream first, CUstream second, int *host) {
    CUdeviceptr memory;
    CUevent event;
    OK(cuMemAllocAsync(&memory, BYTES, first));
    OK(cuEventCreate(&event, 0));
    for (int i = 0; i < COUNT; i++) host[i] = i;
    OK(cuMemcpyHtoDAsync_v2(memory, host, BYTES, first));
    launch(memory, first);
    OK(cuEventRecord(event, first));
    OK(cuStreamWaitEvent(second, event, 0));
    launch(memory, second);
    OK(cuMemcpyDtoHAsync_v2(host, memory, BYTES, second));
    OK(cuLaunchHostFunc(second, count_call, NULL));
    OK(cuMemFreeAsync(memory, second));
    OK(cuEventRecord(event, second));
    OK(cuEventSynchronize(event));
    OK(cuEventDestroy_v2(event));
    for (int i = 0; i < COUNT; i++)
        if (host[i] != i + 2) exit(3);
}

static void replay(CUstream stream, int *host) {
    CUdeviceptr memory;
    CUgraph graph;
    CUgraphExec exec;
    OK(cuMemAlloc_v2(&memory, BYTES));
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuMemsetD8Async(memory, 0, BYTES, stream));
    launch(memory, stream);
    OK(cuMemcpyDtoHAsync_v2(host, memory, BYTES, stream));
    OK(cuLaunchHostFunc(stream, count_call, NULL));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphDestroy(graph));
    for (int i = 0; i < 3; i++) OK(cuGraphLaunch(exec, stream));
    OK(cuGraphExecDestroy(exec));
    OK(cuStreamSynchronize(stream));
    OK(cuMemFree_v2(memory));
    for (int i = 0; i < COUNT; i++)
        if (host[i] != 1) exit(4);
}

static void *drive(void *unused) {
    void *host;
    OK(cuCtxSetCurrent(context));
    OK(cuMemHostAlloc(&host, BYTES, 0));
    for (int round = 0; round < rounds; round++) {
        CUstream first, second;
        CUmodule module;
        OK(cuStreamCreate(&first, CU_STREAM_NON_BLOCKING));
        OK(cuStreamCreate(&second, round % 2 ? CU_STREAM_NON_BLOCKING : 0));
        work(first, second, host);
        replay(first, host);
        OK(cuStreamDestroy_v2(first));
        OK(cuStreamDestroy_v2(second));
        OK(cuModuleLoadData(&module, image));
        OK(cuModuleUnload(module));
    }
    OK(cuMemFreeHost(host));
    OK(cuCtxSetCurrent(NULL));
    return unused;
}

static char *read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) exit(5);
    size_t bytes = (size_t)ftell(file);
    char *content = malloc(bytes);
    rewind(file);
    if (content == NULL || fread(content, 1, bytes, file) != bytes) exit(5);
    fclose(file);
    return content;
}

int main(int argc, char **argv) {
    pthread_t threads[THREADS];
    CUmodule module;
    if (argc != 3) return 1;
    image = read_file(argv[1]);
    rounds = atoi(argv[2]);
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuModuleLoadData(&module, image));
    OK(cuModuleGetFunction(&turn, module, "turn"));
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, drive, NULL) != 0) return 6;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    OK(cuCtxSynchronize());
    OK(cuDevicePrimaryCtxRelease_v2(0));
    free(image);
    return atomic_load(&callbacks) == THREADS * rounds * 4 ? 0 : 7;
}
