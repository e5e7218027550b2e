/* The part of the CUDA 13 driver API's types and prototypes that the CPU driver implements.
 *
 * NVIDIA's cuda.h is not needed to build: a machine without a toolkit has none. Where it was
 * included before this file, its types are used and only the prototypes below are declared a second
 * time, so that a compiler proves them equal (tests/gpu/test_cpu_driver_prototypes.py).
 */
#ifndef AJIT_CPU_CUDA_H
#define AJIT_CPU_CUDA_H

#include <stddef.h>
#include <stdint.h>

#ifndef __cuda_cuda_h__
#include "cuda_types.h"
#endif

#include "cuda_prototypes.h"

#endif
