// Shim for the CPU driver: everything it declares for device code is in cpu_kernel.hpp.
#pragma once

