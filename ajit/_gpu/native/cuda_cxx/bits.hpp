// Integer intrinsics, bit casts, cached loads and clocks.
#ifndef AJIT_CPU_BITS_HPP
#define AJIT_CPU_BITS_HPP

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x != 0 ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
static inline int __clzll(long long x) {
    return x != 0 ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }

static inline unsigned __brev(unsigned x) {
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(x);
}
static inline unsigned long long __brevll(unsigned long long x) {
    return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
           __brev(static_cast<unsigned>(x >> 32));
}

// Four bytes, each chosen from the eight of (y, x); bit 3 of a selector asks for the byte's sign.
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selectors) {
    unsigned long long bytes = static_cast<unsigned long long>(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned selector = selectors >> 4 * i & 0xfu;
        unsigned byte = static_cast<unsigned>(bytes >> 8 * (selector & 7u)) & 0xffu;
        if (selector & 8u) byte = byte & 0x80u ? 0xffu : 0u;
        result |= byte << 8 * i;
    }
    return result;
}

static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>(((static_cast<uint64_t>(high) << 32 | low) << (shift & 31u)) >>
                                 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31u));
}

static inline int __mul24(int x, int y) {
    return static_cast<int>(static_cast<unsigned>((x << 8) >> 8) *
                            static_cast<unsigned>((y << 8) >> 8));
}
static inline unsigned __umul24(unsigned x, unsigned y) {
    return (x & 0xffffffu) * (y & 0xffffffu);
}
static inline int __mulhi(int x, int y) {
    return static_cast<int>(static_cast<long long>(x) * y >> 32);
}
static inline unsigned __umulhi(unsigned x, unsigned y) {
    return static_cast<unsigned>(static_cast<unsigned long long>(x) * y >> 32);
}
static inline long long __mul64hi(long long x, long long y) {
    return static_cast<long long>(static_cast<__int128>(x) * y >> 64);
}
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}
static inline unsigned __sad(int x, int y, unsigned z) {
    return z + static_cast<unsigned>(x > y ? static_cast<long long>(x) - y
                                           : static_cast<long long>(y) - x);
}
static inline int __hadd(int x, int y) {
    return static_cast<int>((static_cast<long long>(x) + y) >> 1);
}
static inline int __rhadd(int x, int y) {
    return static_cast<int>((static_cast<long long>(x) + y + 1) >> 1);
}

static inline int __dp4a(int a, int b, int c) {
    unsigned sum = static_cast<unsigned>(c);
    for (int i = 0; i < 32; i += 8)
        sum += static_cast<unsigned>(static_cast<signed char>(a >> i) *
                                     static_cast<signed char>(b >> i));
    return static_cast<int>(sum);
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 32; i += 8) c += (a >> i & 0xffu) * (b >> i & 0xffu);
    return c;
}

namespace ajit_cpu {

template <class To, class From> inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

} // namespace ajit_cpu

static inline int __float_as_int(float x) { return ajit_cpu::bit_cast<int>(x); }
static inline unsigned __float_as_uint(float x) { return ajit_cpu::bit_cast<unsigned>(x); }
static inline float __int_as_float(int x) { return ajit_cpu::bit_cast<float>(x); }
static inline float __uint_as_float(unsigned x) { return ajit_cpu::bit_cast<float>(x); }
static inline long long __double_as_longlong(double x) { return ajit_cpu::bit_cast<long long>(x); }
static inline double __longlong_as_double(long long x) { return ajit_cpu::bit_cast<double>(x); }
static inline int __double2hiint(double x) {
    return static_cast<int>(__double_as_longlong(x) >> 32);
}
static inline int __double2loint(double x) { return static_cast<int>(__double_as_longlong(x)); }
static inline double __hiloint2double(int high, int low) {
    return __longlong_as_double(static_cast<long long>(
        static_cast<uint64_t>(static_cast<unsigned>(high)) << 32 | static_cast<unsigned>(low)));
}

// Hints to a GPU's caches.
template <class T_> inline T_ __ldg(const T_ *address) { return *address; }
template <class T_> inline T_ __ldca(const T_ *address) { return *address; }
template <class T_> inline T_ __ldcg(const T_ *address) { return *address; }
template <class T_> inline T_ __ldcs(const T_ *address) { return *address; }
template <class T_> inline T_ __ldlu(const T_ *address) { return *address; }
template <class T_> inline T_ __ldcv(const T_ *address) {
    return *const_cast<const volatile T_ *>(address);
}
template <class T_> inline void __stwb(T_ *address, T_ value) { *address = value; }
template <class T_> inline void __stcg(T_ *address, T_ value) { *address = value; }
template <class T_> inline void __stcs(T_ *address, T_ value) { *address = value; }
template <class T_> inline void __stwt(T_ *address, T_ value) { *address = value; }

// Ticks of the CPU, about as fine as a GPU's.
static inline long long clock64() {
#if defined(__x86_64__)
    return static_cast<long long>(__builtin_ia32_rdtsc());
#else
    long long ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#endif
}

#endif
