#error "the CPU driver does not have surfaces (surface_functions.h)"
