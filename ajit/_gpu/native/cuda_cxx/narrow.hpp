// The arithmetic behind half precision and bfloat16: 16 bits stored, float or double computed,
// rounded once.
//
// Sums, products, quotients and square roots of two such numbers are rounded to float first; float
// has more than twice their precision plus two bits, so the second rounding changes nothing. A
// fused multiply-add needs more: it is computed in double, rounded to odd, which keeps the second
// rounding exact.
#ifndef AJIT_CPU_NARROW_HPP
#define AJIT_CPU_NARROW_HPP

namespace ajit_cpu {

// Drops the low `shift` bits (1 to 31) of `x`, to nearest, ties to even.
inline uint32_t round_off(uint32_t x, unsigned shift) {
    uint32_t kept = x >> shift, rest = x & ((1u << shift) - 1), half = 1u << (shift - 1);
    return kept + (rest > half || (rest == half && (kept & 1)));
}

// IEEE binary16: 1 sign, 5 exponent, 10 fraction bits.
struct half_format {
    static constexpr uint16_t nan = 0x7fff, infinity = 0x7c00, one = 0x3c00;

    static uint16_t encode(float value) {
        uint32_t bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u, x = bits & 0x7fffffffu;
        if (x > 0x7f800000u) return nan;
        if (x >= 0x477ff000u) return static_cast<uint16_t>(sign | infinity); // 65520 and more
        if (x >= 0x38800000u) return static_cast<uint16_t>(sign | round_off(x - 0x38000000u, 13));
        uint32_t shift = 126 - (x >> 23); // subnormal: in units of 2^-24
        if (shift > 24) return static_cast<uint16_t>(sign);
        return static_cast<uint16_t>(sign | round_off((x & 0x7fffffu) | 0x800000u, shift));
    }

    static float decode(uint16_t bits) {
        uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, x = bits & 0x7fffu;
        if (x >= infinity) return __uint_as_float(sign | 0x7f800000u | (x & 0x3ffu) << 13);
        if (x >= 0x400u) return __uint_as_float(sign | ((x << 13) + 0x38000000u));
        return __uint_as_float(sign | __float_as_uint(static_cast<float>(x) * 0x1p-24f));
    }
};

// bfloat16: the upper half of a float.
struct bfloat16_format {
    static constexpr uint16_t nan = 0x7fff, infinity = 0x7f80, one = 0x3f80;

    static uint16_t encode(float value) {
        uint32_t bits = __float_as_uint(value);
        if ((bits & 0x7fffffffu) > 0x7f800000u) return nan;
        return static_cast<uint16_t>(round_off(bits, 16)); // a carry goes into the exponent: right
    }

    static float decode(uint16_t bits) {
        return __uint_as_float(static_cast<uint32_t>(bits) << 16);
    }
};

// `sum`, the rounded value of sum + error, as if rounded to odd: its last bit says that there was
// more.
inline double to_odd(double sum, double error) {
    long long bits = __double_as_longlong(sum);
    if (error == 0 || !(error == error) || __builtin_isinf(sum)) return sum;
    if ((error > 0) != (sum > 0)) bits -= 1; // rounded away from zero: back to what lies below
    return __longlong_as_double(bits | 1);
}

inline float to_odd_float(double value) {
    float nearest = static_cast<float>(value);
    if (static_cast<double>(nearest) == value || !(value == value)) return nearest;
    uint32_t bits = __float_as_uint(nearest);
    if (__builtin_fabs(static_cast<double>(nearest)) > __builtin_fabs(value)) bits -= 1;
    return __uint_as_float(bits | 1);
}

// x * y + z of narrow numbers: the product is exact in double, the sum's error is found exactly
// (Knuth's TwoSum).
inline float fused(float x, float y, float z) {
    double product = static_cast<double>(x) * y, addend = z, sum = product + addend;
    double part = sum - product, error = (product - (sum - part)) + (addend - part);
    return to_odd_float(to_odd(sum, error));
}

// The neighbour of `bits` that rounding toward zero, down or up gives instead of the nearest.
enum class direction { zero, down, up };
template <class Format> inline uint16_t encode_toward(float value, direction way) {
    uint16_t bits = Format::encode(value);
    float nearest = Format::decode(bits);
    bool negative = __builtin_signbit(value);
    bool outward = way == direction::zero ? false : (way == direction::up) != negative;
    if (!(value == value) || nearest == value) return bits;
    bool too_far = __builtin_fabsf(nearest) > __builtin_fabsf(value);
    if (too_far && !outward) return static_cast<uint16_t>(bits - 1);
    if (!too_far && outward) return static_cast<uint16_t>(bits + 1);
    return bits;
}

} // namespace ajit_cpu

#endif
