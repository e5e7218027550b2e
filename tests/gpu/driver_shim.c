/* A driver between the executor and the CPU driver that counts calls made with the GIL held, and
 * keeps their names in order. On demand, calls move the clock of an executor (driver_clock.py).
 *
 * Every function of the table is a stub that saves the argument registers, asks Python whether the
 * calling thread holds the GIL, restores them, and jumps on to the real function.
 */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

static _Atomic int calls, violations;
int shim_calls(void) { return calls; }
int shim_violations(void) { return violations; }

/* The last ones; what is asked for is never that old. */
enum { JOURNAL = 4096 };
static const char *_Atomic journal[JOURNAL];
const char *shim_call(int number) { return journal[number % JOURNAL]; }

/* How long calls take by the executor's clock. Written while no call enters. */
static struct {
    char name[64];
    uint64_t ns;
} costs[4];
static void (*_Atomic advance)(uint64_t ns);

void shim_move_clock(void (*by)(uint64_t ns)) {
    memset(costs, 0, sizeof costs);
    advance = by;
}

int shim_takes(const char *name, uint64_t ns) {
    for (int i = 0; i < 4; i++) {
        if (costs[i].ns) continue;
        strncpy(costs[i].name, name, sizeof costs[i].name - 1);
        costs[i].ns = ns;
        return 0;
    }
    return -1;
}

static void pass_time(const char *name) {
    void (*by)(uint64_t ns) = advance;
    for (int i = 0; by && i < 4 && costs[i].ns; i++)
        if (!strcmp(costs[i].name, name)) by(costs[i].ns);
}

__attribute__((used)) void shim_check(const char *name) {
    static int (*holds_gil)(void);
    if (!holds_gil) holds_gil = (int (*)(void))dlsym(RTLD_DEFAULT, "PyGILState_Check");
    journal[calls++ % JOURNAL] = name;
    if (!holds_gil || holds_gil()) violations++;
    pass_time(name);
}

#define STUB(name)                                                                              \
    __attribute__((used)) void *shim_to_##name;                                                 \
    __attribute__((used)) const char shim_name_##name[] = #name;                                \
    __asm__(".globl " #name "\n.type " #name ", @function\n" #name ":\n"                        \
            "push %rdi\npush %rsi\npush %rdx\npush %rcx\npush %r8\npush %r9\nsub $8, %rsp\n"    \
            "mov shim_name_" #name "@GOTPCREL(%rip), %rdi\ncall shim_check@PLT\nadd $8, %rsp\n" \
            "pop %r9\npop %r8\npop %rcx\npop %rdx\npop %rsi\npop %rdi\n"                        \
            "mov shim_to_" #name "@GOTPCREL(%rip), %r11\njmp *(%r11)\n");
#define FILL(name) shim_to_##name = dlsym(driver, #name);

// clang-format off: a list, not statements
#define ALL(DO)                                                                                 \
    DO(cuInit) DO(cuDriverGetVersion) DO(cuDeviceGetCount) DO(cuDeviceGet) DO(cuDeviceGetName)  \
    DO(cuDeviceTotalMem_v2) DO(cuDeviceGetAttribute) DO(cuDevicePrimaryCtxRetain)               \
    DO(cuDevicePrimaryCtxRelease_v2) DO(cuCtxSetCurrent) DO(cuStreamCreateWithPriority)         \
    DO(cuStreamDestroy_v2) DO(cuStreamQuery) DO(cuMemAlloc_v2) DO(cuMemFree_v2)                 \
    DO(cuMemHostAlloc) DO(cuMemFreeHost) DO(cuMemcpyHtoDAsync_v2) DO(cuMemcpyDtoHAsync_v2)      \
    DO(cuMemcpyDtoDAsync_v2) DO(cuMemsetD8Async) DO(cuModuleLoadData) DO(cuModuleUnload)        \
    DO(cuModuleGetFunction) DO(cuFuncLoad) DO(cuFuncGetParamInfo) DO(cuFuncGetAttribute)        \
    DO(cuFuncSetAttribute) DO(cuLaunchKernel) DO(cuLaunchHostFunc)                              \
    DO(cuThreadExchangeStreamCaptureMode) DO(cuStreamWaitEvent) DO(cuEventCreate)               \
    DO(cuEventDestroy_v2) DO(cuEventRecord) DO(cuEventElapsedTime_v2) DO(cuMemcpyAsync)         \
    DO(cuStreamBeginCapture_v2) DO(cuStreamEndCapture) DO(cuGraphDestroy)                       \
    DO(cuStreamIsCapturing)                                                                     \
    DO(cuMemcpyBatchAsync_v2) DO(cuGraphInstantiateWithFlags) DO(cuGraphLaunch)                 \
    DO(cuGraphExecDestroy) DO(cuLaunchKernelEx) DO(cuMemPoolCreate) DO(cuMemPoolDestroy)        \
    DO(cuMemPoolTrimTo) DO(cuMemPoolSetAttribute) DO(cuMemPoolGetAttribute)                     \
    DO(cuMemAllocFromPoolAsync) DO(cuMemFreeAsync) DO(cuMemHostRegister_v2)                     \
    DO(cuMemHostUnregister)
// clang-format on

ALL(STUB)

__attribute__((constructor)) static void fill(void) {
    void *driver = dlopen(CPU_DRIVER, RTLD_NOW | RTLD_LOCAL);
    ALL(FILL)
}
