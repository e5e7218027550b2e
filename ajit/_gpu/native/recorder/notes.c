/* Notes: the file that all processes of a job append their records to, and what they say of
 * themselves. The rules for what is in here are those of recorder.c. */
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE
#include "notes.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_int record_fd = -1;
static char record_path[64];
static _Atomic uint64_t record_inode;

/* The lowest number that the descriptor may get, where it can. Programs choose low ones by
 * themselves: `exec 3>log` of a shell takes 3 from whatever has it. Pretty arbitrary. */
#define HIGH 400

static int raw_open(const char *path, int flags) {
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0);
}

static uint64_t inode_of(int fd) {
    struct stat state;
    return syscall(SYS_newfstatat, fd, "", &state, AT_EMPTY_PATH) == 0 ? state.st_ino : 0;
}

/* Opens the record file again: a program may have closed all of its descriptors. */
static int reopen(void) {
    if (record_path[0] == 0) return -1;
    int fd = raw_open(record_path, O_WRONLY | O_APPEND | O_CLOEXEC);
    int high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, HIGH);
    if (fd >= 0 && high < 0) high = fcntl(fd, F_DUPFD_CLOEXEC, 3); /* the limit is lower */
    if (fd >= 0) close(fd);
    if (high >= 0) atomic_store(&record_inode, inode_of(high));
    atomic_store(&record_fd, high);
    return high;
}

static void append(const void *record, size_t bytes) {
    int fd = atomic_load(&record_fd);
    /* The program may have given the number to a file of its own. */
    if (inode_of(fd) != atomic_load(&record_inode) && (fd = reopen()) < 0) return;
    ssize_t ignored = write(fd, record, bytes);
    (void)ignored;
}

bool ajit_notes_are_taken(void) {
    return atomic_load_explicit(&record_fd, memory_order_relaxed) >= 0;
}

size_t ajit_base_of(int directory, char *out, size_t room) {
    if (directory == AT_FDCWD) {
        long length = syscall(SYS_getcwd, out, room - 1); /* counts the terminating zero */
        if (length <= 1 || out[0] != '/') return 0;       /* removed, or outside of this root */
        out[length - 1] = '/';
        return (size_t)length;
    }
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, out, room - 1);
    if (length <= 0 || out[0] != '/') return 0;
    out[length] = '/';
    return (size_t)length + 1;
}

void ajit_note(enum kind kind, int directory, const char *path, const struct stat *state) {
    if (!ajit_notes_are_taken() || path == NULL || path[0] == 0) return;
    int saved = errno;
    struct {
        struct head head;
        char path[2 * PATH_MAX];
    } record;
    size_t length = 0, given = strnlen(path, PATH_MAX);
    if (path[0] != '/') length = ajit_base_of(directory, record.path, PATH_MAX);
    if (path[0] == '/' || length > 0) {
        memcpy(record.path + length, path, given);
        length += given;
        fill_head(&record.head, kind, length, state);
        append(&record, sizeof record.head + length);
    }
    errno = saved;
}

void ajit_note_open(int fd, int directory, const char *path, int flags) {
    if (!ajit_notes_are_taken()) return;
    if (fd < 0) {
        ajit_note(kind_of_failure(errno), directory, path, NULL);
        return;
    }
    int saved = errno;
    struct stat state;
    if ((flags & O_ACCMODE) == O_WRONLY || (flags & O_TRUNC) != 0)
        ajit_note(WRITTEN, directory, path, NULL);
    else if (syscall(SYS_newfstatat, fd, "", &state, AT_EMPTY_PATH) != 0)
        ajit_note(REFUSED, directory, path, NULL);
    else if ((flags & O_PATH) != 0 || S_ISDIR(state.st_mode))
        ajit_note(PRESENT, directory, path, NULL);
    else ajit_note(S_ISREG(state.st_mode) ? READ : STREAM, directory, path, &state);
    errno = saved;
}

void ajit_note_start(const char *path) {
    if (!ajit_notes_are_taken() || path == NULL) return;
    if (strchr(path, '/') != NULL) {
        ajit_note(STARTED, AT_FDCWD, path, NULL);
        return;
    }
    int saved = errno;
    struct {
        struct head head;
        char path[NAME_MAX];
    } record;
    size_t length = strnlen(path, NAME_MAX);
    memcpy(record.path, path, length);
    fill_head(&record.head, STARTED, length, NULL);
    append(&record, sizeof record.head + length);
    errno = saved;
}

/* For a compiler that is a library in the worker: record into a descriptor of this process, which
 * is in append mode, until told to stop. */
EXPORTED void ajit_record_start(int fd) {
    atomic_store(&record_inode, inode_of(fd));
    atomic_store(&record_fd, fd);
}

EXPORTED void ajit_record_stop(void) { atomic_store(&record_fd, -1); }

/* The shared libraries of a program, which the dynamic loader opens by itself. Of a compiler they
 * count by its fingerprint; for what a build runs there is none, so it sets AJIT_READS_LIBRARIES.
 */
static int note_library(struct dl_phdr_info *library, size_t size, void *own) {
    (void)size;
    struct stat state;
    const char *path = library->dlpi_name;
    if (path == NULL || path[0] != '/' || (void *)library->dlpi_addr == own) return 0;
    if (syscall(SYS_newfstatat, AT_FDCWD, path, &state, 0) == 0)
        ajit_note(READ, AT_FDCWD, path, &state);
    else ajit_note(ABSENT, AT_FDCWD, path, NULL); /* replaced since: what was read is not known */
    return 0;
}

static void note_libraries(void) {
    Dl_info own;
    if (getenv("AJIT_READS_LIBRARIES") == NULL || atomic_load(&record_fd) < 0) return;
    if (dladdr((void *)note_libraries, &own) != 0) dl_iterate_phdr(note_library, own.dli_fbase);
}

/* Those that were loaded meanwhile. Programs that end without it are few, and load none late. */
__attribute__((destructor)) static void end(void) { note_libraries(); }

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("AJIT_READS");
    if (path == NULL || strlen(path) >= sizeof record_path) return;
    strcpy(record_path, path);
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    struct stat state; /* of the file that is being run, whatever has its name by now */
    if (syscall(SYS_newfstatat, AT_FDCWD, "/proc/self/exe", &state, 0) != 0) return;
    if (reopen() >= 0 && length > 0) {
        program[length] = 0;
        ajit_note(PROGRAM, AT_FDCWD, program, &state);
        note_libraries();
    }
}
