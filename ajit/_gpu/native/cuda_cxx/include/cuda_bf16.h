// Shim for the CPU driver: bfloat16.
#pragma once
#include "../bfloat16.hpp"
