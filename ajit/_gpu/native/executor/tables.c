/* Tables of numbers that come from users: checked, and packed for a submission, without a loop in
 * Python. Called by the submitting thread with the GIL held: memory only, and bounded by the table.
 */
#include "executor.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Numbers need not be aligned. One that is negative becomes a number that is outside of all
 * memory. */
static uint64_t number(const struct ajit_column *column, uint64_t i) {
    const unsigned char *at = (const unsigned char *)(uintptr_t)column->start;
    if (!column->bytes) return column->start;
    if (column->bytes == sizeof(uint64_t)) {
        uint64_t wide;
        memcpy(&wide, at + i * sizeof wide, sizeof wide);
        return wide;
    }
    uint32_t narrow;
    memcpy(&narrow, at + i * sizeof narrow, sizeof narrow);
    return column->is_signed ? (uint64_t)(int64_t)(int32_t)narrow : narrow;
}

/* --- page numbers ----------------------------------------------------------------------------- */

/* A set of what was seen: open addressing in a table that is at most half full. */
struct seen {
    int32_t *slots; /* -1: empty */
    uint32_t mask;
};

static bool seen_open(struct seen *seen, uint64_t count) {
    uint64_t size = 16;
    while (size < 2 * count) size *= 2;
    if (size > UINT32_MAX) return false;
    seen->slots = malloc(size * sizeof *seen->slots);
    if (!seen->slots) return false;
    memset(seen->slots, 0xff, size * sizeof *seen->slots);
    seen->mask = (uint32_t)(size - 1);
    return true;
}

/* Returns whether it was there already. */
static bool seen_add(struct seen *seen, int32_t id) {
    uint32_t at = (uint32_t)id * 2654435761u & seen->mask; /* Knuth's multiplier */
    for (; seen->slots[at] >= 0; at = (at + 1) & seen->mask)
        if (seen->slots[at] == id) return true;
    seen->slots[at] = id;
    return false;
}

/* A signed number below 0 is a gap, all of which become -1. */
static int check_ids(int32_t *out, const struct ajit_column *ids, uint64_t count, uint64_t limit,
                     struct seen *seen, uint64_t *at) {
    uint64_t gaps = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t id = number(ids, i);
        *at = i;
        if (ids->is_signed && (int64_t)id < 0) {
            out[i] = -1;
            gaps++;
            continue;
        }
        if (id >= limit) return AJIT_OUTSIDE;
        out[i] = (int32_t)id;
        if (seen->slots && seen_add(seen, out[i])) return AJIT_TWICE;
    }
    *at = count - gaps;
    return AJIT_GOOD;
}

/* Packs the numbers of pages. `unique`: none may come twice. In `at` stands how many are no gaps,
 * or the place of the bad one. */
int ajit_table_ids(int32_t *out, const struct ajit_column *ids, uint64_t count, uint64_t limit,
                   int unique, uint64_t *at) {
    struct seen seen = {NULL, 0};
    if (unique && !seen_open(&seen, count)) return AJIT_NO_ROOM;
    if (limit > INT32_MAX) limit = (uint64_t)INT32_MAX + 1;
    int verdict = check_ids(out, ids, count, limit, &seen, at);
    free(seen.slots);
    return verdict;
}

/* --- ranges ----------------------------------------------------------------------------------- */

struct range { uint64_t target, size, index; };

static int by_target(const void *left, const void *right) {
    uint64_t a = ((const struct range *)left)->target, b = ((const struct range *)right)->target;
    return (a > b) - (a < b);
}

static bool overlap(const struct range *sorted, uint64_t count, uint64_t *at) {
    for (uint64_t i = 1; i < count; i++) {
        *at = sorted[i].index;
        if (sorted[i].target - sorted[i - 1].target < sorted[i - 1].size) return true;
    }
    return false;
}

/* Ranges that are in order need no sorting, and most are. */
static int check_targets(const struct ajit_ranges *ranges, uint64_t *at) {
    uint64_t count = 0;
    bool sorted = true;
    struct range *all = malloc((ranges->count + 1) * sizeof *all);
    if (!all) return AJIT_NO_ROOM;
    for (uint64_t i = 0; i < ranges->count; i++) {
        uint64_t target = number(&ranges->target_offsets, i), size = number(&ranges->sizes, i);
        if (!size) continue;
        all[count] = (struct range){target, size, i};
        if (count && target < all[count - 1].target) sorted = false;
        count++;
    }
    if (!sorted) qsort(all, count, sizeof *all, by_target);
    int verdict = overlap(all, count, at) ? AJIT_TWICE : AJIT_GOOD;
    free(all);
    return verdict;
}

static bool fits(uint64_t offset, uint64_t size, uint64_t bytes) {
    return size <= bytes && offset <= bytes - size;
}

static int check_bounds(const struct ajit_ranges *ranges, uint64_t *at) {
    for (*at = 0; *at < ranges->count; ++*at) {
        uint64_t size = number(&ranges->sizes, *at);
        if (!fits(number(&ranges->target_offsets, *at), size, ranges->target_bytes))
            return AJIT_OUTSIDE;
        if (!fits(number(&ranges->source_offsets, *at), size, ranges->source_bytes))
            return AJIT_SOURCE_OUTSIDE;
    }
    return AJIT_GOOD;
}

/* Targets, sources and sizes, each in a part of `out` that has room for all. Neighbours become one;
 * what has no bytes is left out. Returns how many there are. */
static uint64_t merge(uint64_t *targets, const struct ajit_ranges *ranges) {
    uint64_t *sources = targets + ranges->count, *sizes = sources + ranges->count, count = 0;
    for (uint64_t i = 0; i < ranges->count; i++) {
        uint64_t target = ranges->target + number(&ranges->target_offsets, i);
        uint64_t source = ranges->source + number(&ranges->source_offsets, i);
        uint64_t size = number(&ranges->sizes, i), last = count - 1;
        if (!size) continue;
        if (count && targets[last] + sizes[last] == target &&
            sources[last] + sizes[last] == source) {
            sizes[last] += size;
            continue;
        }
        targets[count] = target;
        sources[count] = source;
        sizes[count++] = size;
    }
    return count;
}

/* Packs ranges as the tables of COPIES. `out` has room for three numbers a range. In `at` stands
 * how many copies there are, or the place of the bad one. */
int ajit_table_copies(uint64_t *out, const struct ajit_ranges *ranges, uint64_t *at) {
    int verdict = check_bounds(ranges, at);
    if (!verdict) verdict = check_targets(ranges, at);
    if (verdict) return verdict;
    uint64_t count = merge(out, ranges);
    memmove(out + count, out + ranges->count, count * sizeof *out);
    memmove(out + 2 * count, out + 2 * ranges->count, count * sizeof *out);
    *at = count;
    return AJIT_GOOD;
}
