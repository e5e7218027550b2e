// Shim for the CPU driver: everything it declares for device code is in kernel.hpp.
#pragma once
