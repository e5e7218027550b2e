// Vector types: int1 to double4, dim3 and make_*, with CUDA's alignment. Written by hand for none
// of them: one macro a width.
#ifndef AJIT_CPU_VECTOR_HPP
#define AJIT_CPU_VECTOR_HPP

#define AJIT_CPU_VECTOR1(type, scalar) \
    struct type##1 { scalar x; };      \
    static inline type##1 make_##type##1(scalar x) { return type##1 {x}; }
#define AJIT_CPU_VECTOR2(type, scalar, alignment)                        \
    struct __attribute__((aligned(alignment))) type##2 { scalar x, y; }; \
    static inline type##2 make_##type##2(scalar x, scalar y) { return type##2 {x, y}; }
#define AJIT_CPU_VECTOR3(type, scalar)  \
    struct type##3 { scalar x, y, z; }; \
    static inline type##3 make_##type##3(scalar x, scalar y, scalar z) { return type##3 {x, y, z}; }
#define AJIT_CPU_VECTOR4(type, scalar, alignment)                                  \
    struct __attribute__((aligned(alignment))) type##4 { scalar x, y, z, w; };     \
    static inline type##4 make_##type##4(scalar x, scalar y, scalar z, scalar w) { \
        return type##4 {x, y, z, w};                                               \
    }
#define AJIT_CPU_VECTORS(type, scalar, alignment2, alignment4) \
    AJIT_CPU_VECTOR1(type, scalar)                             \
    AJIT_CPU_VECTOR2(type, scalar, alignment2)                 \
    AJIT_CPU_VECTOR3(type, scalar)                             \
    AJIT_CPU_VECTOR4(type, scalar, alignment4)

AJIT_CPU_VECTORS(char, signed char, 2, 4)
AJIT_CPU_VECTORS(uchar, unsigned char, 2, 4)
AJIT_CPU_VECTORS(short, short, 4, 8)
AJIT_CPU_VECTORS(ushort, unsigned short, 4, 8)
AJIT_CPU_VECTORS(int, int, 8, 16)
AJIT_CPU_VECTORS(uint, unsigned int, 8, 16)
AJIT_CPU_VECTORS(long, long, 16, 16)
AJIT_CPU_VECTORS(ulong, unsigned long, 16, 16)
AJIT_CPU_VECTORS(longlong, long long, 16, 16)
AJIT_CPU_VECTORS(ulonglong, unsigned long long, 16, 16)
AJIT_CPU_VECTORS(float, float, 8, 16)
AJIT_CPU_VECTORS(double, double, 16, 16)

#undef AJIT_CPU_VECTOR1
#undef AJIT_CPU_VECTOR2
#undef AJIT_CPU_VECTOR3
#undef AJIT_CPU_VECTOR4
#undef AJIT_CPU_VECTORS

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return uint3{x, y, z}; }
};

#endif
