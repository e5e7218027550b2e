/* Host memory of others that the driver knows, in the pieces in which it was told of it.
 *
 * A driver takes no copy that reaches from one piece into the next, or from memory that it does not
 * know into a piece. Memory becomes known in the background while it is copied from and to, so
 * whoever submits a copy cannot know where it has to be cut; the CUDA thread does, which tells the
 * driver of memory and cuts copies.
 */
#include "executor.h"

#include <stdlib.h>
#include <string.h>

/* The index of the first piece that starts after an address. */
static uint64_t upper(const struct ajit_known *known, uint64_t address) {
    uint64_t low = 0, high = known->count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (known->pieces[middle].start <= address) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void forget_span(struct ajit_known *known) { known->low = known->high = 0; }

/* Makes room for one more, so that `ajit_known_add` cannot fail. */
int ajit_known_reserve(struct ajit_known *known) {
    if (known->count < known->room) return CUDA_SUCCESS;
    uint64_t room = known->room ? 2 * known->room : 64;
    struct ajit_known_piece *grown = realloc(known->pieces, room * sizeof *grown);
    if (!grown) return CUDA_ERROR_OUT_OF_MEMORY;
    known->pieces = grown;
    known->room = room;
    return CUDA_SUCCESS;
}

void ajit_known_add(struct ajit_known *known, uint64_t start, uint64_t size) {
    uint64_t at = upper(known, start);
    memmove(&known->pieces[at + 1], &known->pieces[at],
            (known->count - at) * sizeof *known->pieces);
    known->pieces[at] = (struct ajit_known_piece){start, start + size};
    known->count++;
    forget_span(known);
}

void ajit_known_remove(struct ajit_known *known, uint64_t start) {
    uint64_t at = upper(known, start);
    if (!at || known->pieces[at - 1].start != start) return;
    memmove(&known->pieces[at - 1], &known->pieces[at],
            (known->count - at) * sizeof *known->pieces);
    known->count--;
    forget_span(known);
}

void ajit_known_free(struct ajit_known *known) { free(known->pieces); }

/* Finds what lies around an address without an end of a piece in it. */
static void look(struct ajit_known *known, uint64_t address) {
    uint64_t at = upper(known, address);
    const struct ajit_known_piece *before = at ? &known->pieces[at - 1] : NULL;
    bool inside = before && address < before->end;
    known->low = inside ? before->start : before ? before->end : 0;
    known->high = inside ? before->end : at < known->count ? known->pieces[at].start : UINT64_MAX;
}

/* How much of a range may be copied at once, from its start on. */
uint64_t ajit_known_span(struct ajit_known *known, uint64_t address, uint64_t bytes) {
    if (!known->count) return bytes;
    if (address < known->low || address >= known->high) look(known, address);
    return bytes < known->high - address ? bytes : known->high - address;
}

/* Whether no copy may go on from the byte before an address. */
bool ajit_known_parts(struct ajit_known *known, uint64_t address) {
    if (!known->count) return false;
    if (address < known->low || address >= known->high) look(known, address);
    return address == known->low;
}
