#error "the CPU driver does not have textures (texture_types.h)"
