// Shim for the CPU driver: half precision.
#pragma once
#include "../half.hpp"
