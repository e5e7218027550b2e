// bfloat16: the types and functions of NVIDIA's cuda_bf16.h.
#ifndef AJIT_CPU_BFLOAT16_HPP
#define AJIT_CPU_BFLOAT16_HPP

#include "narrow.hpp"

#define NARROW __nv_bfloat16
#define NARROW2 __nv_bfloat162
#define NARROW_RAW __nv_bfloat16_raw
#define NARROW2_RAW __nv_bfloat162_raw
#define NARROW_FORMAT ajit_cpu::bfloat16_format
#define NARROW_WORD bfloat16
#include "narrow_type.inl"
#include "narrow_functions.inl"

using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

#endif
