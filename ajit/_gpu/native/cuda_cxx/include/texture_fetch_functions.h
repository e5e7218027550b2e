#error "the CPU driver does not have textures (texture_fetch_functions.h)"
