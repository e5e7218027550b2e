// Conversions between numbers: rounded as the name says, saturated, and a NaN is 0, as on a GPU.
#ifndef AJIT_CPU_CONVERT_HPP
#define AJIT_CPU_CONVERT_HPP

namespace ajit_cpu {

// `x` is a whole number already. The limits are powers of two, which both floating types have
// exactly.
template <class To, class From> inline To saturate(From x) {
    constexpr bool is_signed = static_cast<To>(-1) < static_cast<To>(0);
    constexpr int bits = static_cast<int>(sizeof(To)) * 8 - is_signed;
    constexpr From limit = static_cast<From>(1ull << (bits - 1)) * From(2);
    constexpr To most = static_cast<To>(~0ull >> (64 - bits));
    if (!(x == x)) return 0;
    if (x >= limit) return most;
    if (x < (is_signed ? -limit : From(0))) return is_signed ? static_cast<To>(-most - 1) : To(0);
    return static_cast<To>(x);
}

} // namespace ajit_cpu

#define AJIT_CPU_TO_INTEGER(from, from_name, to, to_name)     \
    static inline to __##from_name##2##to_name##_rn(from x) { \
        return ajit_cpu::saturate<to>(rint(x));               \
    }                                                         \
    static inline to __##from_name##2##to_name##_rz(from x) { \
        return ajit_cpu::saturate<to>(trunc(x));              \
    }                                                         \
    static inline to __##from_name##2##to_name##_rd(from x) { \
        return ajit_cpu::saturate<to>(floor(x));              \
    }                                                         \
    static inline to __##from_name##2##to_name##_ru(from x) { \
        return ajit_cpu::saturate<to>(ceil(x));               \
    }
AJIT_CPU_TO_INTEGER(float, float, int, int)
AJIT_CPU_TO_INTEGER(float, float, unsigned, uint)
AJIT_CPU_TO_INTEGER(float, float, long long, ll)
AJIT_CPU_TO_INTEGER(float, float, unsigned long long, ull)
AJIT_CPU_TO_INTEGER(double, double, int, int)
AJIT_CPU_TO_INTEGER(double, double, unsigned, uint)
AJIT_CPU_TO_INTEGER(double, double, long long, ll)
AJIT_CPU_TO_INTEGER(double, double, unsigned long long, ull)
#undef AJIT_CPU_TO_INTEGER

static inline float __int2float_rn(int x) { return static_cast<float>(x); }
static inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
static inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
static inline float __ull2float_rn(unsigned long long x) { return static_cast<float>(x); }
static inline double __int2double_rn(int x) { return x; }
static inline double __uint2double_rn(unsigned x) { return x; }
static inline double __ll2double_rn(long long x) { return static_cast<double>(x); }
static inline double __ull2double_rn(unsigned long long x) { return static_cast<double>(x); }
static inline float __double2float_rn(double x) { return static_cast<float>(x); }

#endif
