/* Records: what the recorder and the watcher write about a program's look at a file. The worker
 * reads them in ajit/_compile/worker/recording.py. */
#ifndef AJIT_RECORDS_H
#define AJIT_RECORDS_H

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* What a record tells; the values are letters so that a dump can be read. */
enum kind {
    READ = 'r',    /* opened for reading */
    WRITTEN = 'w', /* opened for writing, made, named or removed: the compile's own work */
    ABSENT = 'a',  /* looked for, and not there */
    PRESENT = 'p', /* looked at, and there */
    REFUSED = 'f', /* looked for, and it could not be told or opened */
    STREAM = 's',  /* opened for reading, and no file: what comes out cannot be known again */
    PROGRAM = 'x', /* a program that began */
    STARTED = 'e', /* a program that is about to be started; its own record follows */
};

/* A record: this, then the path without a terminating zero. Little-endian, as all that ajit runs
 * on. */
struct head {
    uint32_t length; /* of the path */
    uint32_t kind;
    uint64_t device, inode, size, mtime_ns, ctime_ns; /* of a file that was opened */
    uint64_t now_ns;                                  /* when it was, by the same clock as mtime */
};

static inline uint64_t in_ns(struct timespec t) {
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Fills a head in; the state is NULL for what was not opened. */
static inline void fill_head(struct head *head, enum kind kind, size_t length,
                             const struct stat *state) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    memset(head, 0, sizeof *head);
    head->length = (uint32_t)length;
    head->kind = (uint32_t)kind;
    head->now_ns = in_ns(now);
    if (state == NULL) return;
    head->device = state->st_dev;
    head->inode = state->st_ino;
    head->size = (uint64_t)state->st_size;
    head->mtime_ns = in_ns(state->st_mtim);
    head->ctime_ns = in_ns(state->st_ctim);
}

/* What a failed look says. */
static inline enum kind kind_of_failure(int error) {
    return error == ENOENT || error == ENOTDIR || error == ENAMETOOLONG ? ABSENT : REFUSED;
}

#endif
