// Shim for the CPU driver: everything it declares is in kernel.hpp.
#pragma once
