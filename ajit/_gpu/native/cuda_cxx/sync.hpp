// Barriers, fences, shuffles and votes.
#ifndef AJIT_CPU_SYNC_HPP
#define AJIT_CPU_SYNC_HPP

namespace ajit_cpu {

inline int barrier(uint32_t op, int predicate) {
    caller caller;
    return static_cast<int>(
        caller.self->services->barrier(caller.self, caller.number, op, predicate != 0));
}

inline uint64_t warp(uint32_t op, unsigned mask, uint64_t value, uint32_t source) {
    caller caller;
    return caller.self->services->warp(caller.self, caller.number, op, mask, value, source);
}

inline unsigned lane() { return thread % 32u; }

// A value in the 64 bits that travel between lanes. Its unused bits are zero, so that values
// compare equal.
template <class T_> inline uint64_t pack(const T_ &value) {
    static_assert(sizeof(T_) <= sizeof(uint64_t), "a lane exchanges at most 8 bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    return bits;
}

template <class T_> inline T_ unpack(uint64_t bits) {
    T_ value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T_> inline T_ shuffle(unsigned mask, T_ value, unsigned source) {
    return unpack<T_>(warp(AJIT_CPU_WARP_SHUFFLE, mask, pack(value), source));
}

} // namespace ajit_cpu

static inline void __syncthreads() { ajit_cpu::barrier(AJIT_CPU_BARRIER_SYNC, 0); }
static inline int __syncthreads_count(int predicate) {
    return ajit_cpu::barrier(AJIT_CPU_BARRIER_COUNT, predicate);
}
static inline int __syncthreads_and(int predicate) {
    return ajit_cpu::barrier(AJIT_CPU_BARRIER_AND, predicate);
}
static inline int __syncthreads_or(int predicate) {
    return ajit_cpu::barrier(AJIT_CPU_BARRIER_OR, predicate);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    ajit_cpu::warp(AJIT_CPU_WARP_SYNC, mask, 0, 0);
}

// A stream begins a launch when what is in front of it has ended: there is nothing left to wait
// for.
static inline void cudaGridDependencySynchronize() {}
static inline void cudaTriggerProgrammaticLaunchCompletion() {}

static inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// The lane that each kind of shuffle reads, by the PTX ISA's shfl: outside the segment of `width`
// lanes it is one's own.
template <class T_>
inline T_ __shfl_sync(unsigned mask, T_ value, int source, int width = warpSize) {
    unsigned own = ajit_cpu::lane(), segment = own & ~static_cast<unsigned>(width - 1);
    return ajit_cpu::shuffle(mask, value, segment + (static_cast<unsigned>(source) & (width - 1)));
}
template <class T_>
inline T_ __shfl_up_sync(unsigned mask, T_ value, unsigned delta, int width = warpSize) {
    unsigned own = ajit_cpu::lane(), place = own & static_cast<unsigned>(width - 1);
    return ajit_cpu::shuffle(mask, value, place >= delta ? own - delta : own);
}
template <class T_>
inline T_ __shfl_down_sync(unsigned mask, T_ value, unsigned delta, int width = warpSize) {
    unsigned own = ajit_cpu::lane(), place = own & static_cast<unsigned>(width - 1);
    bool inside =
        delta < static_cast<unsigned>(width) && place + delta < static_cast<unsigned>(width);
    return ajit_cpu::shuffle(mask, value, inside ? own + delta : own);
}
template <class T_>
inline T_ __shfl_xor_sync(unsigned mask, T_ value, int bits, int width = warpSize) {
    unsigned own = ajit_cpu::lane(), source = own ^ static_cast<unsigned>(bits);
    unsigned end = (own & ~static_cast<unsigned>(width - 1)) + static_cast<unsigned>(width);
    return ajit_cpu::shuffle(mask, value, source < end ? source : own);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return static_cast<unsigned>(ajit_cpu::warp(AJIT_CPU_WARP_BALLOT, mask, predicate != 0, 0));
}
static inline int __any_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, !predicate) == 0;
}
static inline unsigned __activemask() {
    return static_cast<unsigned>(ajit_cpu::warp(AJIT_CPU_WARP_ACTIVE, 0, 0, 0));
}
template <class T_> inline unsigned __match_any_sync(unsigned mask, T_ value) {
    return static_cast<unsigned>(
        ajit_cpu::warp(AJIT_CPU_WARP_MATCH, mask, ajit_cpu::pack(value), 0));
}
template <class T_> inline unsigned __match_all_sync(unsigned mask, T_ value, int *all) {
    unsigned same = __match_any_sync(mask, value);
    *all = __all_sync(mask, __builtin_popcount(same) == __builtin_popcount(__ballot_sync(mask, 1)));
    return *all ? same : 0;
}

namespace ajit_cpu {

// Every lane walks the same lanes in the same order, so all get the same result.
template <class T_, class Combine> inline T_ reduce(unsigned mask, T_ value, Combine combine) {
    unsigned members = __ballot_sync(mask, 1);
    T_ result = shuffle(mask, value, static_cast<unsigned>(__builtin_ctz(members)));
    for (unsigned rest = members & (members - 1); rest != 0; rest &= rest - 1)
        result = combine(result, shuffle(mask, value, static_cast<unsigned>(__builtin_ctz(rest))));
    return result;
}

} // namespace ajit_cpu

#define AJIT_CPU_REDUCE(name, type, expression)                                                  \
    static inline type __reduce_##name##_sync(unsigned mask, type value) {                       \
        return ajit_cpu::reduce(mask, value, [](type a, type b) -> type { return expression; }); \
    }
AJIT_CPU_REDUCE(add, unsigned, a + b)
AJIT_CPU_REDUCE(add, int, static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)))
AJIT_CPU_REDUCE(min, unsigned, a < b ? a : b)
AJIT_CPU_REDUCE(min, int, a < b ? a : b)
AJIT_CPU_REDUCE(max, unsigned, a > b ? a : b)
AJIT_CPU_REDUCE(max, int, a > b ? a : b)
AJIT_CPU_REDUCE(and, unsigned, a &b)
AJIT_CPU_REDUCE(or, unsigned, a | b)
AJIT_CPU_REDUCE(xor, unsigned, a ^ b)
#undef AJIT_CPU_REDUCE

#endif
