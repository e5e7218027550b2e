// Atomics. Blocks run on different OS threads, so they are real ones; all are relaxed, as CUDA's
// are.
#ifndef AJIT_CPU_ATOMIC_HPP
#define AJIT_CPU_ATOMIC_HPP

namespace ajit_cpu {

template <class T_> struct bits_of;
template <> struct bits_of<float> { using bits = unsigned int; };
template <> struct bits_of<double> { using bits = unsigned long long; };

// Replaces *address by update(*address) and returns what was there, for any type of 2, 4 or 8
// bytes.
template <class Bits, class T_, class Update> inline T_ atomic_update(T_ *address, Update update) {
    static_assert(sizeof(Bits) == sizeof(T_), "the bits of this type");
    Bits *place = reinterpret_cast<Bits *>(address);
    Bits before = __atomic_load_n(place, __ATOMIC_RELAXED);
    for (;;) {
        T_ old;
        __builtin_memcpy(&old, &before, sizeof old);
        T_ wanted = update(old);
        Bits after;
        __builtin_memcpy(&after, &wanted, sizeof after);
        if (__atomic_compare_exchange_n(place, &before, after, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
            return old;
    }
}

template <class T_> inline T_ atomic_cas(T_ *address, T_ compare, T_ value) {
    __atomic_compare_exchange_n(address, &compare, value, false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED);
    return compare; // what was found, whether it was replaced or not
}

} // namespace ajit_cpu

#define AJIT_CPU_ATOMIC(name, type, expression) \
    static inline type name(type *address, type value) { return expression; }
#define AJIT_CPU_ATOMICS(type)                                                               \
    AJIT_CPU_ATOMIC(atomicAdd, type, __atomic_fetch_add(address, value, __ATOMIC_RELAXED))   \
    AJIT_CPU_ATOMIC(atomicSub, type, __atomic_fetch_sub(address, value, __ATOMIC_RELAXED))   \
    AJIT_CPU_ATOMIC(atomicExch, type, __atomic_exchange_n(address, value, __ATOMIC_RELAXED)) \
    AJIT_CPU_ATOMIC(atomicAnd, type, __atomic_fetch_and(address, value, __ATOMIC_RELAXED))   \
    AJIT_CPU_ATOMIC(atomicOr, type, __atomic_fetch_or(address, value, __ATOMIC_RELAXED))     \
    AJIT_CPU_ATOMIC(atomicXor, type, __atomic_fetch_xor(address, value, __ATOMIC_RELAXED))   \
    AJIT_CPU_ATOMIC(atomicMin, type, ajit_cpu::atomic_update<type>(address, [=](type old) {  \
                        return old < value ? old : value;                                    \
                    }))                                                                      \
    AJIT_CPU_ATOMIC(atomicMax, type, ajit_cpu::atomic_update<type>(address, [=](type old) {  \
                        return old > value ? old : value;                                    \
                    }))                                                                      \
    static inline type atomicCAS(type *address, type compare, type value) {                  \
        return ajit_cpu::atomic_cas(address, compare, value);                                \
    }

AJIT_CPU_ATOMICS(int)
AJIT_CPU_ATOMICS(unsigned int)
AJIT_CPU_ATOMICS(long long)
AJIT_CPU_ATOMICS(unsigned long long)
AJIT_CPU_ATOMICS(long)          // what int64_t and
AJIT_CPU_ATOMICS(unsigned long) // uint64_t are on Linux: CUDA has them by conversion only

static inline unsigned short atomicCAS(unsigned short *address, unsigned short compare,
                                       unsigned short value) {
    return ajit_cpu::atomic_cas(address, compare, value);
}

#define AJIT_CPU_ATOMIC_FLOAT(name, type, expression)                                         \
    static inline type name(type *address, type value) {                                      \
        return ajit_cpu::atomic_update<ajit_cpu::bits_of<type>::bits>(address,                \
                                                                      [=](type old) -> type { \
                                                                          (void)old;          \
                                                                          return expression;  \
                                                                      });                     \
    }
AJIT_CPU_ATOMIC_FLOAT(atomicAdd, float, old + value)
AJIT_CPU_ATOMIC_FLOAT(atomicAdd, double, old + value)
AJIT_CPU_ATOMIC_FLOAT(atomicSub, float, old - value)
AJIT_CPU_ATOMIC_FLOAT(atomicSub, double, old - value)
AJIT_CPU_ATOMIC_FLOAT(atomicExch, float, value)
AJIT_CPU_ATOMIC_FLOAT(atomicExch, double, value)

static inline unsigned int atomicInc(unsigned int *address, unsigned int limit) {
    return ajit_cpu::atomic_update<unsigned int>(
        address, [=](unsigned int old) { return old >= limit ? 0u : old + 1u; });
}
static inline unsigned int atomicDec(unsigned int *address, unsigned int limit) {
    return ajit_cpu::atomic_update<unsigned int>(
        address, [=](unsigned int old) { return old == 0u || old > limit ? limit : old - 1u; });
}

#undef AJIT_CPU_ATOMIC
#undef AJIT_CPU_ATOMICS
#undef AJIT_CPU_ATOMIC_FLOAT

// On one device the scopes mean the same here.
#define AJIT_CPU_SCOPES(name)                                                           \
    template <class... A_> inline auto name##_block(A_... a) -> decltype(name(a...)) {  \
        return name(a...);                                                              \
    }                                                                                   \
    template <class... A_> inline auto name##_system(A_... a) -> decltype(name(a...)) { \
        return name(a...);                                                              \
    }
AJIT_CPU_SCOPES(atomicAdd)
AJIT_CPU_SCOPES(atomicSub)
AJIT_CPU_SCOPES(atomicExch)
AJIT_CPU_SCOPES(atomicMin)
AJIT_CPU_SCOPES(atomicMax)
AJIT_CPU_SCOPES(atomicAnd)
AJIT_CPU_SCOPES(atomicOr)
AJIT_CPU_SCOPES(atomicXor)
AJIT_CPU_SCOPES(atomicCAS)
#undef AJIT_CPU_SCOPES

#endif
