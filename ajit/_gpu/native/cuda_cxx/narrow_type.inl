// One narrow type and its pair, for half.hpp and bfloat16.hpp, which define before
// including it: NARROW, NARROW2 (the types), NARROW_RAW, NARROW2_RAW (NVIDIA's plain structs),
// NARROW_FORMAT (of narrow.hpp). Conversions are implicit as in NVIDIA's headers, so what is
// ambiguous there is ambiguous here.

struct NARROW_RAW { unsigned short x; };

struct NARROW {
    unsigned short __x;

    NARROW() = default;
    NARROW(const NARROW_RAW &raw) : __x(raw.x) {}
    NARROW(float value) : __x(NARROW_FORMAT::encode(value)) {}
    NARROW(double value) : NARROW(ajit_cpu::to_odd_float(value)) {}
    NARROW(short value) : NARROW(static_cast<float>(value)) {}
    NARROW(unsigned short value) : NARROW(static_cast<float>(value)) {}
    NARROW(int value) : NARROW(static_cast<double>(value)) {}
    NARROW(unsigned value) : NARROW(static_cast<double>(value)) {}
    NARROW(long value) : NARROW(static_cast<double>(value)) {}
    NARROW(unsigned long value) : NARROW(static_cast<double>(value)) {}
    NARROW(long long value) : NARROW(static_cast<double>(value)) {}
    NARROW(unsigned long long value) : NARROW(static_cast<double>(value)) {}

    operator NARROW_RAW() const { return {__x}; }
    operator float() const { return NARROW_FORMAT::decode(__x); }
    operator bool() const { return (__x & 0x7fffu) != 0; }
    operator signed char() const { return ajit_cpu::saturate<signed char>(truncf(*this)); }
    operator unsigned char() const { return ajit_cpu::saturate<unsigned char>(truncf(*this)); }
    operator char() const { return ajit_cpu::saturate<char>(truncf(*this)); }
    operator short() const { return ajit_cpu::saturate<short>(truncf(*this)); }
    operator unsigned short() const { return ajit_cpu::saturate<unsigned short>(truncf(*this)); }
    operator int() const { return __float2int_rz(*this); }
    operator unsigned() const { return __float2uint_rz(*this); }
    operator long() const { return __float2ll_rz(*this); }
    operator unsigned long() const { return __float2ull_rz(*this); }
    operator long long() const { return __float2ll_rz(*this); }
    operator unsigned long long() const { return __float2ull_rz(*this); }
};

struct NARROW2_RAW { unsigned short x, y; };

struct __attribute__((aligned(4))) NARROW2 {
    NARROW x, y;

    NARROW2() = default;
    NARROW2(const NARROW &x, const NARROW &y) : x(x), y(y) {}
    NARROW2(const NARROW2_RAW &raw) : x(NARROW_RAW{raw.x}), y(NARROW_RAW{raw.y}) {}
    operator NARROW2_RAW() const { return {x.__x, y.__x}; }
};

namespace ajit_cpu {
template <> struct bits_of<NARROW> { using bits = unsigned short; };
template <> struct bits_of<NARROW2> { using bits = unsigned int; };
} // namespace ajit_cpu

// ---- arithmetic ----

static inline NARROW __hadd(NARROW a, NARROW b) { return NARROW(float(a) + float(b)); }
static inline NARROW __hsub(NARROW a, NARROW b) { return NARROW(float(a) - float(b)); }
static inline NARROW __hmul(NARROW a, NARROW b) { return NARROW(float(a) * float(b)); }
static inline NARROW __hdiv(NARROW a, NARROW b) { return NARROW(float(a) / float(b)); }
static inline NARROW __hadd_rn(NARROW a, NARROW b) { return __hadd(a, b); }
static inline NARROW __hsub_rn(NARROW a, NARROW b) { return __hsub(a, b); }
static inline NARROW __hmul_rn(NARROW a, NARROW b) { return __hmul(a, b); }
static inline NARROW __hfma(NARROW a, NARROW b, NARROW c) {
    return NARROW(ajit_cpu::fused(float(a), float(b), float(c)));
}
static inline NARROW __hneg(NARROW a) {
    return NARROW_RAW{static_cast<unsigned short>(a.__x ^ 0x8000u)};
}
static inline NARROW __habs(NARROW a) {
    return NARROW_RAW{static_cast<unsigned short>(a.__x & 0x7fffu)};
}
static inline NARROW __hsaturate(NARROW a) { return NARROW(__saturatef(float(a))); }
static inline NARROW __hadd_sat(NARROW a, NARROW b) { return __hsaturate(__hadd(a, b)); }
static inline NARROW __hsub_sat(NARROW a, NARROW b) { return __hsaturate(__hsub(a, b)); }
static inline NARROW __hmul_sat(NARROW a, NARROW b) { return __hsaturate(__hmul(a, b)); }
static inline NARROW __hfma_sat(NARROW a, NARROW b, NARROW c) {
    return __hsaturate(__hfma(a, b, c));
}
static inline NARROW __hfma_relu(NARROW a, NARROW b, NARROW c) {
    NARROW sum = __hfma(a, b, c);
    return float(sum) < 0.0f ? NARROW(0.0f) : sum;
}

// ---- comparison; the ones with a u are true if an operand is a NaN ----

static inline bool __hisnan(NARROW a) { return (a.__x & 0x7fffu) > NARROW_FORMAT::infinity; }
static inline int __hisinf(NARROW a) {
    return (a.__x & 0x7fffu) != NARROW_FORMAT::infinity ? 0 : a.__x & 0x8000u ? -1 : 1;
}
#define AJIT_CPU_COMPARE(name, op)                                                               \
    static inline bool __h##name(NARROW a, NARROW b) { return float(a) op float(b); }            \
    static inline bool __h##name##u(NARROW a, NARROW b) {                                        \
        return __hisnan(a) || __hisnan(b) || float(a) op float(b);                               \
    }                                                                                            \
    static inline NARROW2 __h##name##2(NARROW2 a, NARROW2 b) {                                   \
        return {NARROW(float(__h##name(a.x, b.x))), NARROW(float(__h##name(a.y, b.y)))};         \
    }                                                                                            \
    static inline bool __hb##name##2(NARROW2 a, NARROW2 b) {                                     \
        return __h##name(a.x, b.x) && __h##name(a.y, b.y);                                       \
    }                                                                                            \
    static inline bool operator op(const NARROW &a, const NARROW &b) { return __h##name(a, b); } \
    static inline bool operator op(const NARROW2 &a, const NARROW2 &b) {                         \
        return __hb##name##2(a, b);                                                              \
    }
AJIT_CPU_COMPARE(eq, ==)
AJIT_CPU_COMPARE(lt, <)
AJIT_CPU_COMPARE(le, <=)
AJIT_CPU_COMPARE(gt, >)
AJIT_CPU_COMPARE(ge, >=)
#undef AJIT_CPU_COMPARE
static inline bool __hne(NARROW a, NARROW b) { // false for a NaN, unlike the operator
    return !__hisnan(a) && !__hisnan(b) && float(a) != float(b);
}
static inline bool __hneu(NARROW a, NARROW b) { return float(a) != float(b); }
static inline bool operator!=(const NARROW &a, const NARROW &b) { return __hneu(a, b); }
static inline bool operator!=(const NARROW2 &a, const NARROW2 &b) {
    return __hneu(a.x, b.x) && __hneu(a.y, b.y);
}

// Of two zeros the positive one is larger; a NaN loses, or wins with _nan.
static inline NARROW __hmax(NARROW a, NARROW b) {
    if (__hisnan(a)) return __hisnan(b) ? NARROW(NARROW_RAW{NARROW_FORMAT::nan}) : b;
    if (float(a) == float(b)) return a.__x & 0x8000u ? b : a;
    return __hisnan(b) || float(a) > float(b) ? a : b;
}
static inline NARROW __hmin(NARROW a, NARROW b) {
    if (__hisnan(a)) return __hisnan(b) ? NARROW(NARROW_RAW{NARROW_FORMAT::nan}) : b;
    if (float(a) == float(b)) return a.__x & 0x8000u ? a : b;
    return __hisnan(b) || float(a) < float(b) ? a : b;
}
static inline NARROW __hmax_nan(NARROW a, NARROW b) {
    return __hisnan(a) || __hisnan(b) ? NARROW(NARROW_RAW{NARROW_FORMAT::nan}) : __hmax(a, b);
}
static inline NARROW __hmin_nan(NARROW a, NARROW b) {
    return __hisnan(a) || __hisnan(b) ? NARROW(NARROW_RAW{NARROW_FORMAT::nan}) : __hmin(a, b);
}

// ---- pairs ----

#define AJIT_CPU_PAIR1(pair, single) \
    static inline NARROW2 pair(NARROW2 a) { return {single(a.x), single(a.y)}; }
#define AJIT_CPU_PAIR2(pair, single)                   \
    static inline NARROW2 pair(NARROW2 a, NARROW2 b) { \
        return {single(a.x, b.x), single(a.y, b.y)};   \
    }
#define AJIT_CPU_PAIR3(pair, single)                              \
    static inline NARROW2 pair(NARROW2 a, NARROW2 b, NARROW2 c) { \
        return {single(a.x, b.x, c.x), single(a.y, b.y, c.y)};    \
    }
AJIT_CPU_PAIR1(__hneg2, __hneg)
AJIT_CPU_PAIR1(__habs2, __habs)
AJIT_CPU_PAIR2(__hadd2, __hadd)
AJIT_CPU_PAIR2(__hsub2, __hsub)
AJIT_CPU_PAIR2(__hmul2, __hmul)
AJIT_CPU_PAIR2(__hadd2_rn, __hadd)
AJIT_CPU_PAIR2(__hsub2_rn, __hsub)
AJIT_CPU_PAIR2(__hmul2_rn, __hmul)
AJIT_CPU_PAIR2(__h2div, __hdiv)
AJIT_CPU_PAIR2(__hadd2_sat, __hadd_sat)
AJIT_CPU_PAIR2(__hmul2_sat, __hmul_sat)
AJIT_CPU_PAIR2(__hmax2, __hmax)
AJIT_CPU_PAIR2(__hmin2, __hmin)
AJIT_CPU_PAIR2(__hmax2_nan, __hmax_nan)
AJIT_CPU_PAIR2(__hmin2_nan, __hmin_nan)
AJIT_CPU_PAIR3(__hfma2, __hfma)
AJIT_CPU_PAIR3(__hfma2_sat, __hfma_sat)
AJIT_CPU_PAIR3(__hfma2_relu, __hfma_relu)
static inline NARROW2 __hne2(NARROW2 a, NARROW2 b) {
    return {NARROW(float(__hne(a.x, b.x))), NARROW(float(__hne(a.y, b.y)))};
}
static inline bool __hbne2(NARROW2 a, NARROW2 b) { return __hne(a.x, b.x) && __hne(a.y, b.y); }
static inline NARROW2 __hisnan2(NARROW2 a) {
    return {NARROW(float(__hisnan(a.x))), NARROW(float(__hisnan(a.y)))};
}

#define AJIT_CPU_OPERATOR(op, single, pair)                                                      \
    static inline NARROW operator op(const NARROW &a, const NARROW &b) { return single(a, b); }  \
    static inline NARROW2 operator op(const NARROW2 &a, const NARROW2 &b) { return pair(a, b); } \
    static inline NARROW &operator op## = (NARROW & a, const NARROW &b) {                        \
        return a = single(a, b);                                                                 \
    }                                                                                            \
    static inline NARROW2 &operator op## = (NARROW2 & a, const NARROW2 &b) {                     \
        return a = pair(a, b);                                                                   \
    }
AJIT_CPU_OPERATOR(+, __hadd, __hadd2)
AJIT_CPU_OPERATOR(-, __hsub, __hsub2)
AJIT_CPU_OPERATOR(*, __hmul, __hmul2)
AJIT_CPU_OPERATOR(/, __hdiv, __h2div)
#undef AJIT_CPU_OPERATOR
static inline NARROW operator-(const NARROW &a) { return __hneg(a); }
static inline NARROW operator+(const NARROW &a) { return a; }
static inline NARROW2 operator-(const NARROW2 &a) { return __hneg2(a); }
static inline NARROW2 operator+(const NARROW2 &a) { return a; }
static inline NARROW &operator++(NARROW &a) { return a = __hadd(a, NARROW(1.0f)); }
static inline NARROW &operator--(NARROW &a) { return a = __hsub(a, NARROW(1.0f)); }

// ---- mathematics, computed in float ----

#define AJIT_CPU_MATH(name, function)                                             \
    static inline NARROW h##name(NARROW a) { return NARROW(function(float(a))); } \
    AJIT_CPU_PAIR1(h2##name, h##name)
AJIT_CPU_MATH(sqrt, sqrtf)
AJIT_CPU_MATH(rsqrt, rsqrtf)
AJIT_CPU_MATH(rcp, __frcp_rn)
AJIT_CPU_MATH(exp, expf)
AJIT_CPU_MATH(exp2, exp2f)
AJIT_CPU_MATH(exp10, exp10f)
AJIT_CPU_MATH(log, logf)
AJIT_CPU_MATH(log2, log2f)
AJIT_CPU_MATH(log10, log10f)
AJIT_CPU_MATH(sin, sinf)
AJIT_CPU_MATH(cos, cosf)
AJIT_CPU_MATH(tanh, tanhf)
AJIT_CPU_MATH(floor, floorf)
AJIT_CPU_MATH(ceil, ceilf)
AJIT_CPU_MATH(trunc, truncf)
AJIT_CPU_MATH(rint, rintf)
#undef AJIT_CPU_MATH
#undef AJIT_CPU_PAIR1
#undef AJIT_CPU_PAIR2
#undef AJIT_CPU_PAIR3

// ---- parts of pairs ----

static inline float __low2float(NARROW2 a) { return float(a.x); }
static inline float __high2float(NARROW2 a) { return float(a.y); }

// ---- atomics ----

static inline NARROW atomicAdd(NARROW *address, NARROW value) {
    return ajit_cpu::atomic_update<unsigned short>(address,
                                                   [=](NARROW old) { return __hadd(old, value); });
}
static inline NARROW2 atomicAdd(NARROW2 *address, NARROW2 value) {
    return ajit_cpu::atomic_update<unsigned int>(address,
                                                 [=](NARROW2 old) { return __hadd2(old, value); });
}
