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
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "notes.h"

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
        ajit_note_open(fd, AT_FDCWD, path, flags);        \
        return fd;                                        \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                     \
    EXPORTED int name(int directory, const char *path, int flags, ...) { \
        REAL(name);                                                      \
        TAKE_MODE(flags)                                                 \
        int fd = real(directory, path, flags, mode);                     \
        ajit_note_open(fd, directory, path, flags);                      \
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
        ajit_note_open(fd, AT_FDCWD, path, flags);   \
        return fd;                                   \
    }
OPEN_2(__open_2)
OPEN_2(__open64_2)
#define OPENAT_2(name)                                              \
    EXPORTED int name(int directory, const char *path, int flags) { \
        REAL(name);                                                 \
        int fd = real(directory, path, flags);                      \
        ajit_note_open(fd, directory, path, flags);                 \
        return fd;                                                  \
    }
OPENAT_2(__openat_2)
OPENAT_2(__openat64_2)

static int flags_of(const char *mode) {
    if (strchr(mode, '+') != NULL) return mode[0] == 'w' ? O_RDWR | O_TRUNC : O_RDWR;
    return mode[0] == 'r' ? O_RDONLY : O_WRONLY;
}

#define FOPEN(name)                                                                       \
    EXPORTED FILE *name(const char *path, const char *mode) {                             \
        REAL(name);                                                                       \
        FILE *file = real(path, mode);                                                    \
        ajit_note_open(file != NULL ? fileno(file) : -1, AT_FDCWD, path, flags_of(mode)); \
        return file;                                                                      \
    }
FOPEN(fopen)
FOPEN(fopen64)

#define FREOPEN(name)                                                                         \
    EXPORTED FILE *name(const char *path, const char *mode, FILE *old) {                      \
        REAL(name);                                                                           \
        FILE *file = real(path, mode, old);                                                   \
        if (path != NULL)                                                                     \
            ajit_note_open(file != NULL ? fileno(file) : -1, AT_FDCWD, path, flags_of(mode)); \
        return file;                                                                          \
    }
FREOPEN(freopen)
FREOPEN(freopen64)

static void note_look(int result, int directory, const char *path) {
    ajit_note(result == 0 ? PRESENT : kind_of_failure(errno), directory, path, NULL);
}

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
    ajit_note(result == 0 || kind_of_failure(errno) != ABSENT ? PRESENT : ABSENT, directory, path,
              NULL);
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

/* Whether a path is another one than the name itself, made absolute. */
static int leads_elsewhere(const char *real_path, const char *path) {
    char base[PATH_MAX];
    while (path[0] == '.' && path[1] == '/') path += 2;
    size_t length = path[0] == '/' ? 0 : ajit_base_of(AT_FDCWD, base, sizeof base);
    return strncmp(real_path, base, length) != 0 || strcmp(real_path + length, path) != 0;
}

/* What a name leads to through links. gcc opens a system header by that where it is shorter, so
 * that the name itself would count for nothing: it is noted as if it had been read. */
static void note_real(const char *real_path, const char *path) {
    if (!ajit_notes_are_taken() || path == NULL) return;
    if (real_path == NULL) {
        ajit_note(kind_of_failure(errno), AT_FDCWD, path, NULL);
        return;
    }
    int saved = errno;
    struct stat state;
    if (leads_elsewhere(real_path, path) &&
        syscall(SYS_newfstatat, AT_FDCWD, path, &state, 0) == 0) {
        if (S_ISREG(state.st_mode)) ajit_note(READ, AT_FDCWD, path, &state);
        else ajit_note(PRESENT, AT_FDCWD, path, NULL);
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
#define ONE_NAME(name)                                             \
    EXPORTED int name(const char *path) {                          \
        REAL(name);                                                \
        int result = real(path);                                   \
        if (result == 0) ajit_note(WRITTEN, AT_FDCWD, path, NULL); \
        return result;                                             \
    }
ONE_NAME(unlink)
ONE_NAME(remove)

EXPORTED int unlinkat(int directory, const char *path, int flags) {
    REAL(unlinkat);
    int result = real(directory, path, flags);
    if (result == 0) ajit_note(WRITTEN, directory, path, NULL);
    return result;
}

static int note_names(int result, int from, const char *old, int to, const char *new) {
    if (result == 0) {
        ajit_note(WRITTEN, from, old, NULL);
        ajit_note(WRITTEN, to, new, NULL);
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
    if (result == 0) ajit_note(WRITTEN, AT_FDCWD, new, NULL);
    return result;
}

EXPORTED int linkat(int from, const char *old, int to, const char *new, int flags) {
    REAL(linkat);
    int result = real(from, old, to, new, flags);
    if (result == 0) ajit_note(WRITTEN, to, new, NULL);
    return result;
}

EXPORTED int symlink(const char *target, const char *path) {
    REAL(symlink);
    int result = real(target, path);
    if (result == 0) ajit_note(WRITTEN, AT_FDCWD, path, NULL);
    return result;
}

#define EXEC(name)                                            \
    EXPORTED int name(const char *path, char *const argv[]) { \
        REAL(name);                                           \
        ajit_note_start(path);                                \
        return real(path, argv);                              \
    }
EXEC(execv)
EXEC(execvp)

#define EXECE(name)                                                               \
    EXPORTED int name(const char *path, char *const argv[], char *const envp[]) { \
        REAL(name);                                                               \
        ajit_note_start(path);                                                    \
        return real(path, argv, envp);                                            \
    }
EXECE(execve)
EXECE(execvpe)

#define SPAWN(name)                                                                            \
    EXPORTED int name(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, \
                      const posix_spawnattr_t *attributes, char *const argv[],                 \
                      char *const envp[]) {                                                    \
        REAL(name);                                                                            \
        ajit_note_start(path);                                                                 \
        return real(pid, path, actions, attributes, argv, envp);                               \
    }
SPAWN(posix_spawn)
SPAWN(posix_spawnp)
