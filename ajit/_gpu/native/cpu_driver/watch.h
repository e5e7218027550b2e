/* What the sanitizers are told about fibers, in builds that have them; nothing in others.
 *
 * AddressSanitizer must know on which stack a thread is, ThreadSanitizer which of its call stacks
 * goes on.
 */
#ifndef AJIT_CPU_WATCH_H
#define AJIT_CPU_WATCH_H

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define AJIT_CPU_WATCHED 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#define AJIT_CPU_WATCHED 1
#include <sanitizer/tsan_interface.h>
#endif

/* One for each stack that a thread goes on: those of fibers, and its own. */
typedef struct cpu_watch {
    void *token;        /* ASan: its fake stack; TSan: its call stack */
    const void *bottom; /* of the stack's memory */
    size_t bytes;
    unsigned uses; /* of the token */
} cpu_watch;

#if defined(__SANITIZE_ADDRESS__)

/* Fibers end in the middle of functions. What these left on the stack is forgotten when the next
 * fiber begins there, and when the stack goes: its addresses will be used again. */
static inline void cpu_watch_end(cpu_watch *watch) {
    __asan_unpoison_memory_region(watch->bottom, watch->bytes);
}
static inline void cpu_watch_begin(cpu_watch *watch) {
    watch->token = NULL;
    cpu_watch_end(watch);
}
static inline void cpu_watch_leave(cpu_watch *from, cpu_watch *to) {
    __sanitizer_start_switch_fiber(&from->token, to->bottom, to->bytes);
}
/* The thread's own stack is learned when it is left for the first time. */
static inline void cpu_watch_arrive(cpu_watch *here, cpu_watch *home) {
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(here->token, &bottom, &bytes);
    if (home->bottom == NULL) {
        home->bottom = bottom;
        home->bytes = bytes;
    }
}

#elif defined(__SANITIZE_THREAD__)

static inline void cpu_watch_end(cpu_watch *watch) {
    if (watch->token != NULL) __tsan_destroy_fiber(watch->token);
    watch->token = NULL;
}
/* Fibers end in the middle of functions, which pile up in the token (it holds 65536); a new one for
 * each fiber would make tests ten times slower. */
enum { CPU_WATCH_USES = 1000 };
static inline void cpu_watch_begin(cpu_watch *watch) {
    if (watch->token != NULL && ++watch->uses < CPU_WATCH_USES) return;
    cpu_watch_end(watch);
    watch->token = __tsan_create_fiber(0);
    watch->uses = 0;
}
static inline void cpu_watch_leave(cpu_watch *from, cpu_watch *to) {
    if (from->bottom == NULL) from->token = __tsan_get_current_fiber(); /* the thread's own */
    __tsan_switch_to_fiber(to->token, 0);
}
static inline void cpu_watch_arrive(cpu_watch *here, cpu_watch *home) { (void)here, (void)home; }

#endif
#endif
