// bfloat16: the types and functions of NVIDIA's cuda_bf16.h.
#ifndef AJIT_CPU_BFLOAT16_HPP
#define AJIT_CPU_BFLOAT16_HPP

#include "cpu_narrow.hpp"

#define NARROW __nv_bfloat16
#define NARROW2 __nv_bfloat162
#define NARROW_RAW __nv_bfloat16_raw
#define NARROW2_RAW __nv_bfloat162_raw
#define NARROW_FORMAT ajit_cpu::bfloat16_format
#include "cpu_narrow_type.inl"
#undef NARROW
#undef NARROW2
#undef NARROW_RAW
#undef NARROW2_RAW
#undef NARROW_FORMAT

using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

// ---- to and from float ----

static inline __nv_bfloat16 __float2bfloat16(float a) { return __nv_bfloat16(a); }
static inline __nv_bfloat16 __float2bfloat16_rn(float a) { return __nv_bfloat16(a); }
static inline __nv_bfloat16 __float2bfloat16_rz(float a) {
    return __nv_bfloat16_raw{ajit_cpu::encode_toward<ajit_cpu::bfloat16_format>(a, ajit_cpu::direction::zero)};
}
static inline __nv_bfloat16 __float2bfloat16_rd(float a) {
    return __nv_bfloat16_raw{ajit_cpu::encode_toward<ajit_cpu::bfloat16_format>(a, ajit_cpu::direction::down)};
}
static inline __nv_bfloat16 __float2bfloat16_ru(float a) {
    return __nv_bfloat16_raw{ajit_cpu::encode_toward<ajit_cpu::bfloat16_format>(a, ajit_cpu::direction::up)};
}
static inline __nv_bfloat16 __double2bfloat16(double a) { return __nv_bfloat16(a); }
static inline float __bfloat162float(__nv_bfloat16 a) { return float(a); }

// ---- to and from integers ----

#define AJIT_CPU_FROM_INTEGER(type, name) \
    static inline __nv_bfloat16 __##name##2bfloat16_rn(type a) { return __nv_bfloat16(static_cast<double>(a)); }
AJIT_CPU_FROM_INTEGER(int, int)
AJIT_CPU_FROM_INTEGER(unsigned, uint)
AJIT_CPU_FROM_INTEGER(short, short)
AJIT_CPU_FROM_INTEGER(unsigned short, ushort)
AJIT_CPU_FROM_INTEGER(long long, ll)
AJIT_CPU_FROM_INTEGER(unsigned long long, ull)
#undef AJIT_CPU_FROM_INTEGER
#define AJIT_CPU_TO_INTEGER(type, name)                                                                     \
    static inline type __bfloat162##name##_rn(__nv_bfloat16 a) { return ajit_cpu::saturate<type>(rintf(a)); }      \
    static inline type __bfloat162##name##_rz(__nv_bfloat16 a) { return ajit_cpu::saturate<type>(truncf(a)); }     \
    static inline type __bfloat162##name##_rd(__nv_bfloat16 a) { return ajit_cpu::saturate<type>(floorf(a)); }     \
    static inline type __bfloat162##name##_ru(__nv_bfloat16 a) { return ajit_cpu::saturate<type>(ceilf(a)); }
AJIT_CPU_TO_INTEGER(int, int)
AJIT_CPU_TO_INTEGER(unsigned, uint)
AJIT_CPU_TO_INTEGER(short, short)
AJIT_CPU_TO_INTEGER(unsigned short, ushort)
AJIT_CPU_TO_INTEGER(long long, ll)
AJIT_CPU_TO_INTEGER(unsigned long long, ull)
#undef AJIT_CPU_TO_INTEGER

// ---- bits ----

static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 a) { return a.__x; }
static inline short __bfloat16_as_short(__nv_bfloat16 a) { return static_cast<short>(a.__x); }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short a) { return __nv_bfloat16_raw{a}; }
static inline __nv_bfloat16 __short_as_bfloat16(short a) { return __nv_bfloat16_raw{static_cast<unsigned short>(a)}; }

// ---- pairs ----

static inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
static inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) { return {a, a}; }
static inline __nv_bfloat162 __float2bfloat162_rn(float a) { return {__nv_bfloat16(a), __nv_bfloat16(a)}; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
static inline __nv_bfloat162 __float22bfloat162_rn(float2 a) { return {__nv_bfloat16(a.x), __nv_bfloat16(a.y)}; }
static inline float2 __bfloat1622float2(__nv_bfloat162 a) { return {float(a.x), float(a.y)}; }
static inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 a) { return a.x; }
static inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 a) { return a.y; }
static inline __nv_bfloat162 __low2bfloat162(__nv_bfloat162 a) { return {a.x, a.x}; }
static inline __nv_bfloat162 __high2bfloat162(__nv_bfloat162 a) { return {a.y, a.y}; }
static inline __nv_bfloat162 __lows2bfloat162(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x, b.x}; }
static inline __nv_bfloat162 __highs2bfloat162(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.y, b.y}; }
static inline __nv_bfloat162 __lowhigh2highlow(__nv_bfloat162 a) { return {a.y, a.x}; }

#endif
