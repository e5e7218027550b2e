// Shim for the CPU driver: threadIdx and the others are in kernel.hpp.
#pragma once
