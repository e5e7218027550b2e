// Where a thread is: its indices, and its way to the driver's services.
//
// These are variables of the OS thread, shared by all fibers of a block: the caller of a service
// saves its values and restores them (ajit_cpu::caller).
#ifndef AJIT_CPU_THREAD_HPP
#define AJIT_CPU_THREAD_HPP

static thread_local uint3 threadIdx __attribute__((unused)) = {0, 0, 0};
static thread_local uint3 blockIdx __attribute__((unused)) = {0, 0, 0};
// Aligned as the whole segment shall be: ../cpu_driver/elf.c puts dynamic shared memory behind it.
static thread_local dim3 blockDim __attribute__((unused, aligned(128))) = {1, 1, 1};
static thread_local dim3 gridDim __attribute__((unused)) = {1, 1, 1};
static constexpr int warpSize __attribute__((unused)) = 32;

namespace ajit_cpu {

static thread_local ajit_cpu_block *block = nullptr;
static thread_local uint32_t thread = 0; // linear, in the block

// The calling thread, across a service that lets other threads of the block run.
struct caller {
    uint3 index = threadIdx;
    uint32_t number = thread;
    ajit_cpu_block *self = block;
    ~caller() {
        threadIdx = index;
        thread = number;
    }
};

[[noreturn]] inline void fault(uint32_t error, const char *message) {
    block->services->fault(block, error, message);
    __builtin_unreachable();
}

constexpr uint32_t error_assert = 710, error_launch_failed = 719; // CUresult

} // namespace ajit_cpu

#define __trap() ::ajit_cpu::fault(::ajit_cpu::error_launch_failed, "trap")
#define __brkpt() ((void)0)

static inline void __nanosleep(unsigned int) {
    ajit_cpu::caller caller;
    caller.self->services->yield(caller.self, caller.number);
}

#endif
