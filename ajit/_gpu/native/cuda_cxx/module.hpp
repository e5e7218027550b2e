// The image's table: which kernels it has, and how each is run.
#ifndef AJIT_CPU_MODULE_HPP
#define AJIT_CPU_MODULE_HPP

namespace ajit_cpu {

template <class T_> struct plain { using type = T_; };
template <class T_> struct plain<const T_> { using type = T_; };
template <class T_> struct plain<volatile T_> { using type = T_; };
template <class T_> struct plain<const volatile T_> { using type = T_; };
template <class T_> struct is_reference { static constexpr bool value = false; };
template <class T_> struct is_reference<T_ &> { static constexpr bool value = true; };
template <class T_> struct is_reference<T_ &&> { static constexpr bool value = true; };

inline void enter(ajit_cpu_block *entered) {
    block = entered;
    blockIdx = {entered->block_idx[0], entered->block_idx[1], entered->block_idx[2]};
    blockDim = {entered->block_dim[0], entered->block_dim[1], entered->block_dim[2]};
    gridDim = {entered->grid_dim[0], entered->grid_dim[1], entered->grid_dim[2]};
}

// Takes the next thread of the block; false when all have started.
inline bool start_thread(ajit_cpu_block *block) {
    if (block->next_thread >= block->thread_count) return false;
    uint32_t number = thread = block->next_thread++;
    uint32_t row = number / block->block_dim[0];
    threadIdx = {number % block->block_dim[0], row % block->block_dim[1],
                 row / block->block_dim[1]};
    return true;
}

inline void end_thread(ajit_cpu_block *block) {
    uint32_t number = thread;
    block->live_threads--;
    block->live_lanes[number / 32] &= ~(1u << number % 32);
    if (block->parked_threads > 0) block->services->exited(block, number);
}

template <class Signature> struct signature {
    static_assert(sizeof(Signature) == 0, "an entry point is a function that returns void");
};

template <class... P_> struct signature<void (*)(P_...)> {
    static_assert(!(is_reference<P_>::value || ...), "a kernel's parameters are values");
    static constexpr uint32_t count = sizeof...(P_);

    // By CUDA's rule: each parameter at the next offset of its own alignment.
    struct layout {
        ajit_cpu_param params[count + 1] = {};
        uint32_t bytes = 0;
        constexpr layout() {
            uint32_t index = 0;
            (add(index, sizeof(P_), alignof(P_)), ...);
        }
        constexpr void add(uint32_t &index, uint32_t size, uint32_t alignment) {
            bytes = (bytes + alignment - 1) / alignment * alignment;
            params[index++] = {size, bytes};
            bytes += size;
        }
    };

    template <size_t... I_> struct indices {};
    template <size_t N_, size_t... I_> struct make_indices : make_indices<N_ - 1, N_ - 1, I_...> {};
    template <size_t... I_> struct make_indices<0, I_...> { using type = indices<I_...>; };

    template <auto Kernel, size_t... I_> static void run(ajit_cpu_block *block, indices<I_...>) {
        enter(block);
        while (start_thread(block)) {
            Kernel(*static_cast<typename plain<P_>::type *>(block->params[I_])...);
            end_thread(block);
        }
    }
    template <auto Kernel> static void run(ajit_cpu_block *block) {
        run<Kernel>(block, typename make_indices<count>::type());
    }
};

template <auto Kernel> struct entry {
    using type = signature<decltype(Kernel)>;
    static constexpr typename type::layout layout{};
    static constexpr ajit_cpu_kernel describe(const char *name) {
        return {name, &type::template run<Kernel>, layout.params, type::count, layout.bytes};
    }
};

} // namespace ajit_cpu

// The plus makes a pointer of a function and leaves a pointer as it is.
#define AJIT_CPU_KERNEL(name, ...) ::ajit_cpu::entry<+(__VA_ARGS__)>::describe(name)

#define AJIT_CPU_MODULE(...)                                                                 \
    static constexpr ajit_cpu_kernel ajit_cpu_kernels[] = {__VA_ARGS__};                     \
    extern "C" __attribute__((visibility("default"))) const ajit_cpu_module ajit_cpu_module; \
    const struct ajit_cpu_module ajit_cpu_module = {                                         \
        AJIT_CPU_ABI_VERSION, sizeof ajit_cpu_kernels / sizeof *ajit_cpu_kernels,            \
        ajit_cpu_kernels};

#endif
