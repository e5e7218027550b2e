// The conversions of one narrow type, included once for each with the macros of narrow_type.inl and
// NARROW_WORD: what CUDA's names say for it ("half", "bfloat16"). Undefines them all.

#define NARROW_PASTE(a, b, c) a##b##c
#define NARROW_NAME_OF(before, word, behind) NARROW_PASTE(before, word, behind)
#define NARROW_NAME(before, behind) NARROW_NAME_OF(before, NARROW_WORD, behind)

// ---- to and from float ----

static inline NARROW NARROW_NAME(__float2, )(float a) { return NARROW(a); }
static inline NARROW NARROW_NAME(__float2, _rn)(float a) { return NARROW(a); }
#define NARROW_FROM_FLOAT(suffix, toward)                                                          \
    static inline NARROW NARROW_NAME(__float2, suffix)(float a) {                                  \
        return NARROW_RAW{ajit_cpu::encode_toward<NARROW_FORMAT>(a, ajit_cpu::direction::toward)}; \
    }
NARROW_FROM_FLOAT(_rz, zero)
NARROW_FROM_FLOAT(_rd, down)
NARROW_FROM_FLOAT(_ru, up)
static inline NARROW NARROW_NAME(__double2, )(double a) { return NARROW(a); }
static inline float NARROW_NAME(__, 2float)(NARROW a) { return float(a); }

// ---- to and from integers ----

#define NARROW_ROUNDED(type, suffix, round)                \
    static inline type NARROW_NAME(__, suffix)(NARROW a) { \
        return ajit_cpu::saturate<type>(round(a));         \
    }
#define NARROW_INTEGER(type, name)                               \
    static inline NARROW NARROW_NAME(__##name##2, _rn)(type a) { \
        return NARROW(static_cast<double>(a));                   \
    }                                                            \
    NARROW_ROUNDED(type, 2##name##_rn, rintf)                    \
    NARROW_ROUNDED(type, 2##name##_rz, truncf)                   \
    NARROW_ROUNDED(type, 2##name##_rd, floorf)                   \
    NARROW_ROUNDED(type, 2##name##_ru, ceilf)
NARROW_INTEGER(int, int)
NARROW_INTEGER(unsigned, uint)
NARROW_INTEGER(short, short)
NARROW_INTEGER(unsigned short, ushort)
NARROW_INTEGER(long long, ll)
NARROW_INTEGER(unsigned long long, ull)

// ---- bits ----

static inline unsigned short NARROW_NAME(__, _as_ushort)(NARROW a) { return a.__x; }
static inline short NARROW_NAME(__, _as_short)(NARROW a) { return static_cast<short>(a.__x); }
static inline NARROW NARROW_NAME(__ushort_as_, )(unsigned short a) { return NARROW_RAW{a}; }
static inline NARROW NARROW_NAME(__short_as_, )(short a) {
    return NARROW_RAW{static_cast<unsigned short>(a)};
}

// ---- pairs ----

#define NARROW_TWICE_OF(word) NARROW_PASTE(__##word, 2##word, 2)
#define NARROW_TWICE(word) NARROW_TWICE_OF(word)

static inline NARROW2 NARROW_NAME(make_, 2)(NARROW x, NARROW y) { return {x, y}; }
static inline NARROW2 NARROW_NAME(__halves2, 2)(NARROW x, NARROW y) { return {x, y}; }
static inline NARROW2 NARROW_TWICE(NARROW_WORD)(NARROW a) { return {a, a}; }
static inline NARROW2 NARROW_NAME(__float2, 2_rn)(float a) { return {NARROW(a), NARROW(a)}; }
static inline NARROW2 NARROW_NAME(__floats2, 2_rn)(float x, float y) {
    return {NARROW(x), NARROW(y)};
}
static inline NARROW2 NARROW_NAME(__float22, 2_rn)(float2 a) { return {NARROW(a.x), NARROW(a.y)}; }
static inline float2 NARROW_NAME(__, 22float2)(NARROW2 a) { return {float(a.x), float(a.y)}; }
static inline NARROW NARROW_NAME(__low2, )(NARROW2 a) { return a.x; }
static inline NARROW NARROW_NAME(__high2, )(NARROW2 a) { return a.y; }
static inline NARROW2 NARROW_NAME(__low2, 2)(NARROW2 a) { return {a.x, a.x}; }
static inline NARROW2 NARROW_NAME(__high2, 2)(NARROW2 a) { return {a.y, a.y}; }
static inline NARROW2 NARROW_NAME(__lows2, 2)(NARROW2 a, NARROW2 b) { return {a.x, b.x}; }
static inline NARROW2 NARROW_NAME(__highs2, 2)(NARROW2 a, NARROW2 b) { return {a.y, b.y}; }
static inline NARROW2 __lowhigh2highlow(NARROW2 a) { return {a.y, a.x}; }

#undef NARROW_TWICE
#undef NARROW_TWICE_OF
#undef NARROW_INTEGER
#undef NARROW_ROUNDED
#undef NARROW_FROM_FLOAT
#undef NARROW_NAME
#undef NARROW_NAME_OF
#undef NARROW_PASTE
#undef NARROW_WORD
#undef NARROW
#undef NARROW2
#undef NARROW_RAW
#undef NARROW2_RAW
#undef NARROW_FORMAT
