/* What goes between Python and the executor: submissions, records, and what Python reads in place.
 *
 * Numbers, flags and layouts stand in ../table.def, which Python reads as well. The rules R1 to R5
 * stand in executor.h.
 */
#ifndef AJIT_EXECUTOR_WIRE_H
#define AJIT_EXECUTOR_WIRE_H

#include <stdatomic.h>
#include <stdint.h>

#include "driver.h"

/* --- numbers --------------------------------------------------------------------------------- */

enum ajit_opcode {
#define OPCODE(name, number, text) AJIT_##name = number,
#include "../table.def"
};

enum ajit_refusal {
#define REFUSAL(name, number) AJIT_##name = number,
#include "../table.def"
};

/* Inside: memory is used up now, and frees are on their way. */
enum { AJIT_LATER = -2 };

enum ajit_flag {
#define FLAG(name, number) AJIT_##name = number,
#include "../table.def"
};

enum ajit_verdict {
#define VERDICT(name, number) AJIT_##name = number,
#include "../table.def"
};

enum ajit_launch_flag {
#define LAUNCH_FLAG(name, number) AJIT_##name = number,
#include "../table.def"
};

/* An enum for each: one that is larger than an int would make all of them as large. */
#define CONSTANT(name, number) enum { AJIT_##name = number };
#include "../table.def"

/* --- layouts --------------------------------------------------------------------------------- */

#define AJIT_TYPE_u64 uint64_t
#define AJIT_TYPE_u32 uint32_t
#define AJIT_TYPE_u16 uint16_t
#define AJIT_TYPE_i32 int32_t
#define AJIT_TYPE_i16 int16_t
#define AJIT_TYPE_text char
#define AJIT_TYPE_atomic_u64 _Atomic uint64_t
#define AJIT_TYPE_handle CUfunction
#define AJIT_TYPE_u32_list uint32_t *
#define AJIT_TYPE_function_list struct ajit_function *
#define AJIT_TYPE_operation struct ajit_operation
#define AJIT_TYPE_shape struct ajit_shape
#define AJIT_TYPE_column struct ajit_column

#define STRUCT(name) struct ajit_##name {
#define FIELD(owner, type, field) AJIT_TYPE_##type field;
#define ARRAY(owner, type, field, length) AJIT_TYPE_##type field[length];
#define END(name) \
    }             \
    ;
#include "../table.def"

/* --- the table itself ------------------------------------------------------------------------- */

/* One thing that this library was built with: a number, an offset or a size, by name. */
struct ajit_fact {
    const char *name;
    uint64_t value;
};

#endif
