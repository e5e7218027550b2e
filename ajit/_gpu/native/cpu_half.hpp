// Half precision: the types and functions of NVIDIA's cuda_fp16.h.
#ifndef AJIT_CPU_HALF_HPP
#define AJIT_CPU_HALF_HPP

#include "cpu_narrow.hpp"

#define NARROW __half
#define NARROW2 __half2
#define NARROW_RAW __half_raw
#define NARROW2_RAW __half2_raw
#define NARROW_FORMAT ajit_cpu::half_format
#include "cpu_narrow_type.inl"
#undef NARROW
#undef NARROW2
#undef NARROW_RAW
#undef NARROW2_RAW
#undef NARROW_FORMAT

using half = __half;
using half2 = __half2;
using __nv_half = __half;
using __nv_half2 = __half2;
using nv_half = __half;
using nv_half2 = __half2;

// ---- to and from float ----

static inline __half __float2half(float a) { return __half(a); }
static inline __half __float2half_rn(float a) { return __half(a); }
static inline __half __float2half_rz(float a) {
    return __half_raw{ajit_cpu::encode_toward<ajit_cpu::half_format>(a, ajit_cpu::direction::zero)};
}
static inline __half __float2half_rd(float a) {
    return __half_raw{ajit_cpu::encode_toward<ajit_cpu::half_format>(a, ajit_cpu::direction::down)};
}
static inline __half __float2half_ru(float a) {
    return __half_raw{ajit_cpu::encode_toward<ajit_cpu::half_format>(a, ajit_cpu::direction::up)};
}
static inline __half __double2half(double a) { return __half(a); }
static inline float __half2float(__half a) { return float(a); }

// ---- to and from integers ----

#define AJIT_CPU_FROM_INTEGER(type, name) \
    static inline __half __##name##2half_rn(type a) { return __half(static_cast<double>(a)); }
AJIT_CPU_FROM_INTEGER(int, int)
AJIT_CPU_FROM_INTEGER(unsigned, uint)
AJIT_CPU_FROM_INTEGER(short, short)
AJIT_CPU_FROM_INTEGER(unsigned short, ushort)
AJIT_CPU_FROM_INTEGER(long long, ll)
AJIT_CPU_FROM_INTEGER(unsigned long long, ull)
#undef AJIT_CPU_FROM_INTEGER
#define AJIT_CPU_TO_INTEGER(type, name)                                                                     \
    static inline type __half2##name##_rn(__half a) { return ajit_cpu::saturate<type>(rintf(a)); }      \
    static inline type __half2##name##_rz(__half a) { return ajit_cpu::saturate<type>(truncf(a)); }     \
    static inline type __half2##name##_rd(__half a) { return ajit_cpu::saturate<type>(floorf(a)); }     \
    static inline type __half2##name##_ru(__half a) { return ajit_cpu::saturate<type>(ceilf(a)); }
AJIT_CPU_TO_INTEGER(int, int)
AJIT_CPU_TO_INTEGER(unsigned, uint)
AJIT_CPU_TO_INTEGER(short, short)
AJIT_CPU_TO_INTEGER(unsigned short, ushort)
AJIT_CPU_TO_INTEGER(long long, ll)
AJIT_CPU_TO_INTEGER(unsigned long long, ull)
#undef AJIT_CPU_TO_INTEGER

// ---- bits ----

static inline unsigned short __half_as_ushort(__half a) { return a.__x; }
static inline short __half_as_short(__half a) { return static_cast<short>(a.__x); }
static inline __half __ushort_as_half(unsigned short a) { return __half_raw{a}; }
static inline __half __short_as_half(short a) { return __half_raw{static_cast<unsigned short>(a)}; }

// ---- pairs ----

static inline __half2 make_half2(__half x, __half y) { return {x, y}; }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half2 __half2half2(__half a) { return {a, a}; }
static inline __half2 __float2half2_rn(float a) { return {__half(a), __half(a)}; }
static inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
static inline __half2 __float22half2_rn(float2 a) { return {__half(a.x), __half(a.y)}; }
static inline float2 __half22float2(__half2 a) { return {float(a.x), float(a.y)}; }
static inline __half __low2half(__half2 a) { return a.x; }
static inline __half __high2half(__half2 a) { return a.y; }
static inline __half2 __low2half2(__half2 a) { return {a.x, a.x}; }
static inline __half2 __high2half2(__half2 a) { return {a.y, a.y}; }
static inline __half2 __lows2half2(__half2 a, __half2 b) { return {a.x, b.x}; }
static inline __half2 __highs2half2(__half2 a, __half2 b) { return {a.y, b.y}; }
static inline __half2 __lowhigh2highlow(__half2 a) { return {a.y, a.x}; }

#endif
