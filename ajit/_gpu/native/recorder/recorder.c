/* Recorder: notes every file that a compiler reads, or looks for in vain.
 *
 * It is preloaded (LD_PRELOAD) into a compile worker and inherited by the programs that it runs.
 * The calls by which programs find and open files are interposed: each does what it always does,
 * and one record is appended to a file that all processes of the job share. What reads decide which
 * kernel a source gives is then known from the compiler itself and needs no guess.
 *
 * Rules:
 * - A program behaves as without it: results and errno are those of the real call. No memory is
 *   allocated, no lock is held, no descriptor but its own is used. It links no Python symbol.
 * - A record is one write to a descriptor in append mode, so that records of several threads and
 *   processes stay whole and in order.
 * - What cannot be written is lost in silence: their reader has to find the job's own
 *   source among them before he trusts them.
 * - A successful open is noted with the state of the file at that moment (fstat), so that a later
 *   change can be told even where it lies between the open and the end of the compile.
 *
 * The file is named by AJIT_READS (such as /proc/<worker>/fd/7: no program that closes all of its
 * descriptors can lose it). Without that variable nothing is recorded until ajit_record_start().
 *
 * Not seen: raw system calls, and programs that are linked statically; for those there is watch.c.
 */
#define _GNU_SOURCE
/* The 64-bit names are defined here as functions of their own. */
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "records.h"

#define EXPORTED __attribute__((visibility("default")))

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

/* The directory that a relative path starts from, with a slash at its end; 0 if it has no name,
 * as that of a worker has none: nothing can be found there. */
static size_t base_of(int directory, char *out, size_t room) {
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

static void note(enum kind kind, int directory, const char *path, const struct stat *state) {
    if (atomic_load_explicit(&record_fd, memory_order_relaxed) < 0 || path == NULL || path[0] == 0)
        return;
    int saved = errno;
    struct {
        struct head head;
        char path[2 * PATH_MAX];
    } record;
    size_t length = 0, given = strnlen(path, PATH_MAX);
    if (path[0] != '/') length = base_of(directory, record.path, PATH_MAX);
    if (path[0] == '/' || length > 0) {
        memcpy(record.path + length, path, given);
        length += given;
        fill_head(&record.head, kind, length, state);
        append(&record, sizeof record.head + length);
    }
    errno = saved;
}

static enum kind failure(void) { return kind_of_failure(errno); }

static void note_open(int fd, int directory, const char *path, int flags) {
    if (atomic_load_explicit(&record_fd, memory_order_relaxed) < 0) return;
    if (fd < 0) {
        note(failure(), directory, path, NULL);
        return;
    }
    int saved = errno;
    struct stat state;
    if ((flags & O_ACCMODE) == O_WRONLY || (flags & O_TRUNC) != 0)
        note(WRITTEN, directory, path, NULL);
    else if (syscall(SYS_newfstatat, fd, "", &state, AT_EMPTY_PATH) != 0)
        note(REFUSED, directory, path, NULL);
    else if ((flags & O_PATH) != 0 || S_ISDIR(state.st_mode)) note(PRESENT, directory, path, NULL);
    else note(S_ISREG(state.st_mode) ? READ : STREAM, directory, path, &state);
    errno = saved;
}

static void note_look(int result, int directory, const char *path) {
    note(result == 0 ? PRESENT : failure(), directory, path, NULL);
}

/* The real function of a name. dlsym takes locks, so it is called once for each name. */
#define REAL(name)                 \
    static __typeof__(&name) real; \
    if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define NEEDS_MODE(flags) (((flags) & O_CREAT) != 0 || ((flags) & O_TMPFILE) == O_TMPFILE)
#define TAKE_MODE(flags)             \
    mode_t mode = 0;                 \
    if (NEEDS_MODE(flags)) {         \
        va_list rest;                \
        va_start(rest, flags);       \
        mode = va_arg(rest, mode_t); \
        va_end(rest);                \
    }

#define OPEN(name)                                        \
    EXPORTED int name(const char *path, int flags, ...) { \
        REAL(name);                                       \
        TAKE_MODE(flags)                                  \
        int fd = real(path, flags, mode);                 \
        note_open(fd, AT_FDCWD, path, flags);             \
        return fd;                                        \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                     \
    EXPORTED int name(int directory, const char *path, int flags, ...) { \
        REAL(name);                                                      \
        TAKE_MODE(flags)                                                 \
        int fd = real(directory, path, flags, mode);                     \
        note_open(fd, directory, path, flags);                           \
        return fd;                                                       \
    }
OPENAT(openat)
OPENAT(openat64)

/* What programs that were built with _FORTIFY_SOURCE call. */
int __open_2(const char *, int);
int __open64_2(const char *, int);
int __openat_2(int, const char *, int);
int __openat64_2(int, const char *, int);
#define OPEN_2(name)                                 \
    EXPORTED int name(const char *path, int flags) { \
        REAL(name);                                  \
        int fd = real(path, flags);                  \
        note_open(fd, AT_FDCWD, path, flags);        \
        return fd;                                   \
    }
OPEN_2(__open_2)
OPEN_2(__open64_2)
#define OPENAT_2(name)                                              \
    EXPORTED int name(int directory, const char *path, int flags) { \
        REAL(name);                                                 \
        int fd = real(directory, path, flags);                      \
        note_open(fd, directory, path, flags);                      \
        return fd;                                                  \
    }
OPENAT_2(__openat_2)
OPENAT_2(__openat64_2)

static int flags_of(const char *mode) {
    if (strchr(mode, '+') != NULL) return mode[0] == 'w' ? O_RDWR | O_TRUNC : O_RDWR;
    return mode[0] == 'r' ? O_RDONLY : O_WRONLY;
}

#define FOPEN(name)                                                                  \
    EXPORTED FILE *name(const char *path, const char *mode) {                        \
        REAL(name);                                                                  \
        FILE *file = real(path, mode);                                               \
        note_open(file != NULL ? fileno(file) : -1, AT_FDCWD, path, flags_of(mode)); \
        return file;                                                                 \
    }
FOPEN(fopen)
FOPEN(fopen64)

#define FREOPEN(name)                                                                    \
    EXPORTED FILE *name(const char *path, const char *mode, FILE *old) {                 \
        REAL(name);                                                                      \
        FILE *file = real(path, mode, old);                                              \
        if (path != NULL)                                                                \
            note_open(file != NULL ? fileno(file) : -1, AT_FDCWD, path, flags_of(mode)); \
        return file;                                                                     \
    }
FREOPEN(freopen)
FREOPEN(freopen64)

#define STAT(name, type)                                                      \
    EXPORTED int name(const char *restrict path, struct type *restrict out) { \
        REAL(name);                                                           \
        int result = real(path, out);                                         \
        note_look(result, AT_FDCWD, path);                                    \
        return result;                                                        \
    }
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)

#define FSTATAT(name, type)                                                                \
    EXPORTED int name(int directory, const char *restrict path, struct type *restrict out, \
                      int flags) {                                                         \
        REAL(name);                                                                        \
        int result = real(directory, path, out, flags);                                    \
        note_look(result, directory, path);                                                \
        return result;                                                                     \
    }
FSTATAT(fstatat, stat)
FSTATAT(fstatat64, stat64)

/* What programs call that were built with a C library older than 2.33. */
int __xstat(int, const char *, struct stat *);
int __xstat64(int, const char *, struct stat64 *);
int __lxstat(int, const char *, struct stat *);
int __lxstat64(int, const char *, struct stat64 *);
#define XSTAT(name, type)                                                \
    EXPORTED int name(int version, const char *path, struct type *out) { \
        REAL(name);                                                      \
        int result = real(version, path, out);                           \
        note_look(result, AT_FDCWD, path);                               \
        return result;                                                   \
    }
XSTAT(__xstat, stat)
XSTAT(__xstat64, stat64)
XSTAT(__lxstat, stat)
XSTAT(__lxstat64, stat64)

int __fxstatat(int, int, const char *, struct stat *, int);
int __fxstatat64(int, int, const char *, struct stat64 *, int);
#define FXSTATAT(name, type)                                                                       \
    EXPORTED int name(int version, int directory, const char *path, struct type *out, int flags) { \
        REAL(name);                                                                                \
        int result = real(version, directory, path, out, flags);                                   \
        note_look(result, directory, path);                                                        \
        return result;                                                                             \
    }
FXSTATAT(__fxstatat, stat)
FXSTATAT(__fxstatat64, stat64)

EXPORTED int statx(int directory, const char *restrict path, int flags, unsigned mask,
                   struct statx *restrict out) {
    REAL(statx);
    int result = real(directory, path, flags, mask, out);
    note_look(result, directory, path);
    return result;
}

/* A file that is there without the rights that were asked for is there all the same. */
static void note_access(int result, int directory, const char *path) {
    note(result == 0 || failure() != ABSENT ? PRESENT : ABSENT, directory, path, NULL);
}

#define ACCESS(name)                                \
    EXPORTED int name(const char *path, int mode) { \
        REAL(name);                                 \
        int result = real(path, mode);              \
        note_access(result, AT_FDCWD, path);        \
        return result;                              \
    }
ACCESS(access)
ACCESS(eaccess)
ACCESS(euidaccess)

EXPORTED int faccessat(int directory, const char *path, int mode, int flags) {
    REAL(faccessat);
    int result = real(directory, path, mode, flags);
    note_access(result, directory, path);
    return result;
}

/* What a name leads to through links. gcc opens a system header by that where it is shorter, so
 * that the name itself would count for nothing: it is noted as if it had been read. */
static int leads_elsewhere(const char *real_path, const char *path) {
    char base[PATH_MAX];
    while (path[0] == '.' && path[1] == '/') path += 2;
    size_t length = path[0] == '/' ? 0 : base_of(AT_FDCWD, base, sizeof base);
    return strncmp(real_path, base, length) != 0 || strcmp(real_path + length, path) != 0;
}

/* What a name leads to through links. gcc opens a system header by that where it is shorter, so
 * that the name itself would count for nothing: it is noted as if it had been read. */
static void note_real(const char *real_path, const char *path) {
    if (atomic_load_explicit(&record_fd, memory_order_relaxed) < 0 || path == NULL) return;
    if (real_path == NULL) {
        note(failure(), AT_FDCWD, path, NULL);
        return;
    }
    int saved = errno;
    struct stat state;
    if (leads_elsewhere(real_path, path) &&
        syscall(SYS_newfstatat, AT_FDCWD, path, &state, 0) == 0) {
        if (S_ISREG(state.st_mode)) note(READ, AT_FDCWD, path, &state);
        else note(PRESENT, AT_FDCWD, path, NULL);
    }
    errno = saved;
}

EXPORTED char *realpath(const char *restrict path, char *restrict out) {
    REAL(realpath);
    char *result = real(path, out);
    note_real(result, path);
    return result;
}

char *__realpath_chk(const char *, char *, size_t);
EXPORTED char *__realpath_chk(const char *path, char *out, size_t room) {
    REAL(__realpath_chk);
    char *result = real(path, out, room);
    note_real(result, path);
    return result;
}

EXPORTED char *canonicalize_file_name(const char *path) {
    REAL(canonicalize_file_name);
    char *result = real(path);
    note_real(result, path);
    return result;
}

/* Names that a compile gives or takes away: what it finds there later is its own. */
#define ONE_NAME(name)                                        \
    EXPORTED int name(const char *path) {                     \
        REAL(name);                                           \
        int result = real(path);                              \
        if (result == 0) note(WRITTEN, AT_FDCWD, path, NULL); \
        return result;                                        \
    }
ONE_NAME(unlink)
ONE_NAME(remove)

EXPORTED int unlinkat(int directory, const char *path, int flags) {
    REAL(unlinkat);
    int result = real(directory, path, flags);
    if (result == 0) note(WRITTEN, directory, path, NULL);
    return result;
}

static int note_names(int result, int from, const char *old, int to, const char *new) {
    if (result == 0) {
        note(WRITTEN, from, old, NULL);
        note(WRITTEN, to, new, NULL);
    }
    return result;
}

EXPORTED int rename(const char *old, const char *new) {
    REAL(rename);
    return note_names(real(old, new), AT_FDCWD, old, AT_FDCWD, new);
}

EXPORTED int renameat(int from, const char *old, int to, const char *new) {
    REAL(renameat);
    return note_names(real(from, old, to, new), from, old, to, new);
}

EXPORTED int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    REAL(renameat2);
    return note_names(real(from, old, to, new, flags), from, old, to, new);
}

EXPORTED int link(const char *old, const char *new) {
    REAL(link);
    int result = real(old, new);
    if (result == 0) note(WRITTEN, AT_FDCWD, new, NULL);
    return result;
}

EXPORTED int linkat(int from, const char *old, int to, const char *new, int flags) {
    REAL(linkat);
    int result = real(from, old, to, new, flags);
    if (result == 0) note(WRITTEN, to, new, NULL);
    return result;
}

EXPORTED int symlink(const char *target, const char *path) {
    REAL(symlink);
    int result = real(target, path);
    if (result == 0) note(WRITTEN, AT_FDCWD, path, NULL);
    return result;
}

/* Programs that are started: one that ignores the recorder is known by its own record missing. A
 * name without a slash is looked up in PATH by the reader of the record. */
static void note_start(const char *path) {
    if (atomic_load_explicit(&record_fd, memory_order_relaxed) < 0 || path == NULL) return;
    if (strchr(path, '/') != NULL) {
        note(STARTED, AT_FDCWD, path, NULL);
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

#define EXEC(name)                                            \
    EXPORTED int name(const char *path, char *const argv[]) { \
        REAL(name);                                           \
        note_start(path);                                     \
        return real(path, argv);                              \
    }
EXEC(execv)
EXEC(execvp)

#define EXECE(name)                                                               \
    EXPORTED int name(const char *path, char *const argv[], char *const envp[]) { \
        REAL(name);                                                               \
        note_start(path);                                                         \
        return real(path, argv, envp);                                            \
    }
EXECE(execve)
EXECE(execvpe)

#define SPAWN(name)                                                                            \
    EXPORTED int name(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, \
                      const posix_spawnattr_t *attributes, char *const argv[],                 \
                      char *const envp[]) {                                                    \
        REAL(name);                                                                            \
        note_start(path);                                                                      \
        return real(pid, path, actions, attributes, argv, envp);                               \
    }
SPAWN(posix_spawn)
SPAWN(posix_spawnp)

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
    if (syscall(SYS_newfstatat, AT_FDCWD, path, &state, 0) == 0) note(READ, AT_FDCWD, path, &state);
    else note(ABSENT, AT_FDCWD, path, NULL); /* replaced since: what was read is not known */
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
        note(PROGRAM, AT_FDCWD, program, &state);
        note_libraries();
    }
}
