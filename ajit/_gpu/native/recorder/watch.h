/* Watching: between the two halves of the watcher. watch.c gets the calls, calls.c understands
 * them. */
#ifndef AJIT_WATCH_H
#define AJIT_WATCH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

/* What a program asks the kernel when it looks for a file, opens one or runs one. */
static const int watched_calls[] = {
#ifdef SYS_open /* the newer architectures have none of these */
    SYS_open,       SYS_creat,      SYS_stat,  SYS_lstat,     SYS_access,
#endif
    SYS_openat,     SYS_newfstatat, SYS_statx, SYS_faccessat, SYS_execve, SYS_execveat,
#ifdef SYS_openat2 /* the same numbers everywhere, but not in old headers */
    SYS_openat2,
#else
    437,
#endif
#ifdef SYS_faccessat2
    SYS_faccessat2,
#else
    439,
#endif
};
#define WATCHED_CALLS (sizeof watched_calls / sizeof watched_calls[0])

/* One call that waits for an answer: `struct seccomp_notif` of the kernel, whose headers may be
 * old. */
struct call {
    uint64_t id;
    uint32_t pid; /* of the thread */
    uint32_t flags;
    int32_t number;
    uint32_t arch;
    uint64_t instruction;
    uint64_t args[6];
};

struct sink {
    int records;  /* where records go; in append mode */
    int listener; /* where the calls come from */
    long lost;    /* how many calls could not be understood or recorded */
};

int ajit_watch_is_waiting(const struct sink *sink, uint64_t id);

/* Records what a call asks for. Returns 0 if the kernel shall do it, or the negative errno that the
 * program shall get: that of a look in vain, so that it cannot find what was recorded as absent. */
int ajit_watch_note(struct sink *sink, const struct call *call);

#endif
