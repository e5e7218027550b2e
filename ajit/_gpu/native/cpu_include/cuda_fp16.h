// Shim for the CPU driver: half precision.
#pragma once
#include "../cpu_half.hpp"
