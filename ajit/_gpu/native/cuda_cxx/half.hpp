// Half precision: the types and functions of NVIDIA's cuda_fp16.h.
#ifndef AJIT_CPU_HALF_HPP
#define AJIT_CPU_HALF_HPP

#include "narrow.hpp"

#define NARROW __half
#define NARROW2 __half2
#define NARROW_RAW __half_raw
#define NARROW2_RAW __half2_raw
#define NARROW_FORMAT ajit_cpu::half_format
#define NARROW_WORD half
#include "narrow_type.inl"
#include "narrow_functions.inl"

using half = __half;
using half2 = __half2;
using __nv_half = __half;
using __nv_half2 = __half2;
using nv_half = __half;
using nv_half2 = __half2;

#endif
