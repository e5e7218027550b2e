// Shim for the CPU driver: threadIdx and the others are in cpu_kernel.hpp.
#pragma once

