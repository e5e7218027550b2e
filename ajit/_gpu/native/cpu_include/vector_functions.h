// Shim for the CPU driver: everything it declares is in cpu_kernel.hpp.
#pragma once

