// Mathematics: the C library's functions, CUDA's overloads of them for float, and CUDA's
// intrinsics.
//
// The overloads live in a namespace of their own that is opened for everybody. Were they declared
// globally, <cmath>, which takes the global names into std, would find its own overloads declared
// twice.
#ifndef AJIT_CPU_MATH_HPP
#define AJIT_CPU_MATH_HPP

// clang-format off: a list, not statements
#define AJIT_CPU_EACH_UNARY(F) \
    F(sqrt) F(cbrt) F(exp) F(exp2) F(exp10) F(expm1) F(log) F(log2) F(log10) F(log1p) F(sin) \
    F(cos) F(tan) F(asin) F(acos) F(atan) F(sinh) F(cosh) F(tanh) F(asinh) F(acosh) F(atanh) \
    F(erf) F(erfc) F(tgamma) F(lgamma) F(floor) F(ceil) F(trunc) F(round) F(rint) \
    F(nearbyint) F(fabs) F(logb)
// clang-format on
#define AJIT_CPU_EACH_BINARY(F) \
    F(pow) F(atan2) F(fmod) F(remainder) F(hypot) F(copysign) F(fmin) F(fmax) F(fdim) F(nextafter)

#define AJIT_CPU_UNARY(name)               \
    double name(double) AJIT_CPU_NOEXCEPT; \
    float name##f(float) AJIT_CPU_NOEXCEPT;
#define AJIT_CPU_BINARY(name)                      \
    double name(double, double) AJIT_CPU_NOEXCEPT; \
    float name##f(float, float) AJIT_CPU_NOEXCEPT;
extern "C" {
AJIT_CPU_EACH_UNARY(AJIT_CPU_UNARY)
AJIT_CPU_EACH_BINARY(AJIT_CPU_BINARY)
double fma(double, double, double) AJIT_CPU_NOEXCEPT;
float fmaf(float, float, float) AJIT_CPU_NOEXCEPT;
double ldexp(double, int) AJIT_CPU_NOEXCEPT;
float ldexpf(float, int) AJIT_CPU_NOEXCEPT;
double frexp(double, int *) AJIT_CPU_NOEXCEPT;
float frexpf(float, int *) AJIT_CPU_NOEXCEPT;
double modf(double, double *) AJIT_CPU_NOEXCEPT;
float modff(float, float *) AJIT_CPU_NOEXCEPT;
void sincos(double, double *, double *) AJIT_CPU_NOEXCEPT;
void sincosf(float, float *, float *) AJIT_CPU_NOEXCEPT;
long lrint(double) AJIT_CPU_NOEXCEPT;
long lrintf(float) AJIT_CPU_NOEXCEPT;
long lround(double) AJIT_CPU_NOEXCEPT;
long lroundf(float) AJIT_CPU_NOEXCEPT;
long long llrint(double) AJIT_CPU_NOEXCEPT;
long long llrintf(float) AJIT_CPU_NOEXCEPT;
int abs(int) AJIT_CPU_NOEXCEPT;
long labs(long) AJIT_CPU_NOEXCEPT;
long long llabs(long long) AJIT_CPU_NOEXCEPT;
}
#undef AJIT_CPU_UNARY
#undef AJIT_CPU_BINARY

namespace ajit_cpu {

constexpr double pi = 3.14159265358979323846;

// What the C++ library says of other arguments: integers, and two different types, are taken as
// double.
enum kind { other, single_float, double_float, integer };
template <class T_> struct number { static constexpr kind is = other; };
template <> struct number<float> { static constexpr kind is = single_float; };
template <> struct number<double> { static constexpr kind is = double_float; };
template <> struct number<int> { static constexpr kind is = integer; };
template <> struct number<unsigned> { static constexpr kind is = integer; };
template <> struct number<long> { static constexpr kind is = integer; };
template <> struct number<unsigned long> { static constexpr kind is = integer; };
template <> struct number<long long> { static constexpr kind is = integer; };
template <> struct number<unsigned long long> { static constexpr kind is = integer; };
template <bool> struct when {};
template <> struct when<true> { using as = double; };
// `More_` are the types of surplus arguments, which are an error.
template <class T_, class... More_>
using from_integer = typename when<number<T_>::is == integer && sizeof...(More_) == 0>::as;
template <class A_, class B_, class... More_>
using from_mixed = typename when<(number<A_>::is != other && number<B_>::is != other &&
                                  (number<A_>::is != number<B_>::is || number<A_>::is == integer) &&
                                  sizeof...(More_) == 0)>::as;

} // namespace ajit_cpu

// Nothing but functions that CUDA has: a kernel may have any other name.
namespace ajit_cpu_math {

// Templates, so that std::sqrt(float) wins where source has both <cmath> and `using namespace std`.
// The empty packs make those for integers the less specialised ones: libc++ has global templates
// for integers too, and they would be ambiguous.
#define AJIT_CPU_UNARY(name)                                               \
    template <int = 0> inline float name(float x) { return ::name##f(x); } \
    template <class T_, class... More_>                                    \
    inline ajit_cpu::from_integer<T_, More_...> name(T_ x, More_...) {     \
        return ::name(static_cast<double>(x));                             \
    }
#define AJIT_CPU_BINARY(name)                                                          \
    template <int = 0> inline float name(float x, float y) { return ::name##f(x, y); } \
    template <class A_, class B_, class... More_>                                      \
    inline ajit_cpu::from_mixed<A_, B_, More_...> name(A_ x, B_ y, More_...) {         \
        return ::name(static_cast<double>(x), static_cast<double>(y));                 \
    }
AJIT_CPU_EACH_UNARY(AJIT_CPU_UNARY)
AJIT_CPU_EACH_BINARY(AJIT_CPU_BINARY)
#undef AJIT_CPU_UNARY
#undef AJIT_CPU_BINARY
#undef AJIT_CPU_EACH_UNARY
#undef AJIT_CPU_EACH_BINARY

template <int = 0> inline float fma(float x, float y, float z) { return ::fmaf(x, y, z); }
template <int = 0> inline float ldexp(float x, int e) { return ::ldexpf(x, e); }
template <int = 0> inline float pow(float x, int y) { return ::powf(x, static_cast<float>(y)); }
template <int = 0> inline double pow(double x, int y) { return ::pow(x, static_cast<double>(y)); }
template <int = 0> inline float rsqrt(float x) { return 1.0f / ::sqrtf(x); }
template <int = 0> inline float abs(float x) { return ::fabsf(x); }
template <int = 0> inline double abs(double x) { return ::fabs(x); }
template <int = 0> inline long abs(long x) { return ::labs(x); }
template <int = 0> inline long long abs(long long x) { return ::llabs(x); }

#define AJIT_CPU_CLASSIFY(name, builtin)                                \
    template <int = 0> inline bool name(float x) { return builtin(x); } \
    template <int = 0> inline bool name(double x) { return builtin(x); }
AJIT_CPU_CLASSIFY(isnan, __builtin_isnan)
AJIT_CPU_CLASSIFY(isinf, __builtin_isinf)
AJIT_CPU_CLASSIFY(isfinite, __builtin_isfinite)
AJIT_CPU_CLASSIFY(signbit, __builtin_signbit)
#undef AJIT_CPU_CLASSIFY

// min and max of integers mix as C's operators do; those of floats ignore a NaN, as fmin and fmax.
#define AJIT_CPU_MINMAX(result, a, b)                                   \
    inline result min(a x, b y) {                                       \
        return static_cast<result>(x) < static_cast<result>(y) ? x : y; \
    }                                                                   \
    inline result max(a x, b y) { return static_cast<result>(x) > static_cast<result>(y) ? x : y; }
AJIT_CPU_MINMAX(int, int, int)
AJIT_CPU_MINMAX(unsigned, unsigned, unsigned)
AJIT_CPU_MINMAX(unsigned, int, unsigned)
AJIT_CPU_MINMAX(unsigned, unsigned, int)
AJIT_CPU_MINMAX(long, long, long)
AJIT_CPU_MINMAX(unsigned long, unsigned long, unsigned long)
AJIT_CPU_MINMAX(unsigned long, long, unsigned long)
AJIT_CPU_MINMAX(unsigned long, unsigned long, long)
AJIT_CPU_MINMAX(long long, long long, long long)
AJIT_CPU_MINMAX(unsigned long long, unsigned long long, unsigned long long)
AJIT_CPU_MINMAX(unsigned long long, long long, unsigned long long)
AJIT_CPU_MINMAX(unsigned long long, unsigned long long, long long)
#undef AJIT_CPU_MINMAX
inline float min(float x, float y) { return ::fminf(x, y); }
inline float max(float x, float y) { return ::fmaxf(x, y); }
inline double min(double x, double y) { return ::fmin(x, y); }
inline double max(double x, double y) { return ::fmax(x, y); }
inline double min(float x, double y) { return ::fmin(x, y); }
inline double max(float x, double y) { return ::fmax(x, y); }
inline double min(double x, float y) { return ::fmin(x, y); }
inline double max(double x, float y) { return ::fmax(x, y); }

} // namespace ajit_cpu_math
using namespace ajit_cpu_math;

// ---- what the C library does not have, or has under these names for itself ----
//
// C linkage and not static, because glibc's <math.h> declares several of them so (rsqrtf only since
// 2.41).

#define AJIT_CPU_C extern "C" inline

AJIT_CPU_C float rsqrtf(float x) AJIT_CPU_NOEXCEPT { return 1.0f / sqrtf(x); }
AJIT_CPU_C double rsqrt(double x) AJIT_CPU_NOEXCEPT { return 1.0 / sqrt(x); }
AJIT_CPU_C float sinpif(float x) AJIT_CPU_NOEXCEPT {
    return static_cast<float>(sin(ajit_cpu::pi * fmod(static_cast<double>(x), 2.0)));
}
AJIT_CPU_C float cospif(float x) AJIT_CPU_NOEXCEPT {
    return static_cast<float>(cos(ajit_cpu::pi * fmod(static_cast<double>(x), 2.0)));
}
AJIT_CPU_C double sinpi(double x) AJIT_CPU_NOEXCEPT { return sin(ajit_cpu::pi * fmod(x, 2.0)); }
AJIT_CPU_C double cospi(double x) AJIT_CPU_NOEXCEPT { return cos(ajit_cpu::pi * fmod(x, 2.0)); }

// The fast intrinsics are at least as accurate as a GPU's.
AJIT_CPU_C float __expf(float x) AJIT_CPU_NOEXCEPT { return expf(x); }
AJIT_CPU_C float __exp10f(float x) AJIT_CPU_NOEXCEPT { return exp10f(x); }
AJIT_CPU_C float __logf(float x) AJIT_CPU_NOEXCEPT { return logf(x); }
AJIT_CPU_C float __log2f(float x) AJIT_CPU_NOEXCEPT { return log2f(x); }
AJIT_CPU_C float __log10f(float x) AJIT_CPU_NOEXCEPT { return log10f(x); }
AJIT_CPU_C float __powf(float x, float y) AJIT_CPU_NOEXCEPT { return powf(x, y); }
AJIT_CPU_C float __sinf(float x) AJIT_CPU_NOEXCEPT { return sinf(x); }
AJIT_CPU_C float __cosf(float x) AJIT_CPU_NOEXCEPT { return cosf(x); }
AJIT_CPU_C float __tanf(float x) AJIT_CPU_NOEXCEPT { return tanf(x); }
AJIT_CPU_C float __tanhf(float x) AJIT_CPU_NOEXCEPT { return tanhf(x); }
AJIT_CPU_C void __sincosf(float x, float *s, float *c) AJIT_CPU_NOEXCEPT { sincosf(x, s, c); }
#undef AJIT_CPU_C

static inline float rcbrtf(float x) { return 1.0f / cbrtf(x); }
static inline double rcbrt(double x) { return 1.0 / cbrt(x); }
static inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
static inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
static inline float norm3df(float x, float y, float z) { return sqrtf(x * x + y * y + z * z); }
static inline float rnorm3df(float x, float y, float z) { return 1.0f / norm3df(x, y, z); }
static inline float fdividef(float x, float y) { return x / y; }
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

// Rounded to nearest; the other rounding modes would need a different instruction set.
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frsqrt_rn(float x) {
    return static_cast<float>(1.0 / sqrt(static_cast<double>(x)));
}
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dsub_rn(double x, double y) { return x - y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __ddiv_rn(double x, double y) { return x / y; }
static inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
static inline double __drcp_rn(double x) { return 1.0 / x; }
static inline double __dsqrt_rn(double x) { return sqrt(x); }

#ifndef INFINITY
#define INFINITY __builtin_inff()
#endif
#ifndef NAN
#define NAN __builtin_nanf("")
#endif

#endif
