// Shim for the CPU driver: device code needs nothing of it.
#pragma once
