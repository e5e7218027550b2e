/* What this library was built with, for Python to compare with the table that it has read. */
#include "executor.h"

#include <stddef.h>

/* Python reads the two words with one look. */
_Static_assert(offsetof(struct ajit_port, hogged_ns) ==
                   offsetof(struct ajit_port, wanted) + sizeof(uint64_t),
               "`hogged_ns` follows `wanted`");

#define MEMBER(owner, type, field)                                                       \
    _Static_assert(                                                                      \
        _Generic(&((struct ajit_##owner *)0)->field, AJIT_TYPE_##type *: 1, default: 0), \
        #owner "." #field " has the type that table.def says");
#include "../table.def"

static const struct ajit_fact FACTS[] = {
#define OPCODE(name, number, text) {"opcode " #name, number},
#define REFUSAL(name, number) {"refusal " #name, number},
#define FLAG(name, number) {"flag " #name, number},
#define VERDICT(name, number) {"verdict " #name, number},
#define LAUNCH_FLAG(name, number) {"launch flag " #name, number},
#define CONSTANT(name, number) {"constant " #name, number},
#define STRUCT(name) {"size of " #name, sizeof(struct ajit_##name)},
#define FIELD(owner, type, field) PLACE(owner, field)
#define ARRAY(owner, type, field, length) PLACE(owner, field)
#define MEMBER(owner, type, field) PLACE(owner, field)
#define PLACE(owner, field) {"place of " #owner "." #field, offsetof(struct ajit_##owner, field)},
#define ERROR(name, number, kind, text) {"error " #name, number}, {#kind " " #name, number},
#include "../table.def"
};

const struct ajit_fact *ajit_table(uint64_t *count) {
    *count = sizeof FACTS / sizeof *FACTS;
    return FACTS;
}
