// Shim for the CPU driver: bfloat16.
#pragma once
#include "../cpu_bfloat16.hpp"
