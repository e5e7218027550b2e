/* Calls: what a watched system call asks for, whether the file is there, and its record.
 *
 * The call has not been made yet. So whether a file is there is looked up here, from where the
 * program stands: through /proc/<pid>/cwd or /proc/<pid>/fd/<n>, which lead to the program's own
 * directories. Two rules keep record and program together though they look one after the other:
 *
 * - Of a file that is opened, the state before is recorded. A change between shows in the state
 * that it has after the compile.
 * - A look in vain is answered with its errno and never made: what appears now is not seen.
 *
 * What remains: a file that is looked at and not opened (stat), and vanishes and comes back
 * meanwhile.
 *
 * A call whose path cannot be read is counted: such records must not be trusted.
 */
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "records.h"
#include "watch.h"

enum what { LOOKS, OPENS, RUNS };

/* What a call asks for. */
struct look {
    enum what what;
    int directory;
    uint64_t path;  /* an address in the program */
    uint64_t flags; /* of open, where it opens */
    int at_flags;   /* of fstatat, to look in the same way */
};

/* Where a page ends: what lies behind it need not be readable. */
#define PAGE 4096u

/* Reads from a program's memory. Returns the bytes read, at most up to the end of the page. */
static ssize_t read_page(uint32_t pid, uint64_t address, void *out, size_t room) {
    size_t bytes = PAGE - (size_t)(address % PAGE);
    struct iovec here = {out, bytes < room ? bytes : room};
    struct iovec there = {(void *)(uintptr_t)address, here.iov_len};
    return process_vm_readv((pid_t)pid, &here, 1, &there, 1, 0);
}

/* Reads a path of a program. Returns its length, or a negative errno. */
static int read_path(uint32_t pid, uint64_t address, char out[PATH_MAX]) {
    size_t length = 0;
    while (length < PATH_MAX) {
        ssize_t bytes = read_page(pid, address + length, out + length, PATH_MAX - length);
        if (bytes <= 0) return bytes < 0 ? -errno : -EFAULT;
        const char *end = memchr(out + length, 0, (size_t)bytes);
        if (end != NULL) return (int)(end - out);
        length += (size_t)bytes;
    }
    return -ENAMETOOLONG;
}

/* The flags of openat2 lie in memory. Returns 0 or a negative errno. */
static int read_how(uint32_t pid, uint64_t address, uint64_t *flags) {
    struct iovec here = {flags, sizeof *flags};
    struct iovec there = {(void *)(uintptr_t)address, sizeof *flags};
    return process_vm_readv((pid_t)pid, &here, 1, &there, 1, 0) < 0 ? -errno : 0;
}

static int nofollow(uint64_t flags) {
    return (flags & AT_SYMLINK_NOFOLLOW) != 0 ? AT_SYMLINK_NOFOLLOW : 0;
}

static struct look opens(int directory, uint64_t path, uint64_t flags) {
    return (struct look){OPENS, directory, path, flags,
                         (flags & O_NOFOLLOW) != 0 ? AT_SYMLINK_NOFOLLOW : 0};
}

static struct look looks(int directory, uint64_t path, uint64_t at_flags) {
    return (struct look){LOOKS, directory, path, 0, nofollow(at_flags)};
}

/* Says what a call asks for. Returns 0 or a negative errno. */
static int understand(const struct call *call, struct look *look) {
    const uint64_t *args = call->args;
    int first = (int)args[0];
    switch (call->number) {
#ifdef SYS_open
    case SYS_open: *look = opens(AT_FDCWD, args[0], args[1]); return 0;
    case SYS_creat: *look = opens(AT_FDCWD, args[0], O_WRONLY | O_CREAT | O_TRUNC); return 0;
    case SYS_stat:
    case SYS_access: *look = looks(AT_FDCWD, args[0], 0); return 0;
    case SYS_lstat: *look = looks(AT_FDCWD, args[0], AT_SYMLINK_NOFOLLOW); return 0;
#endif
    case SYS_openat: *look = opens(first, args[1], args[2]); return 0;
    case SYS_newfstatat: *look = looks(first, args[1], args[3]); return 0;
    case SYS_statx: *look = looks(first, args[1], args[2]); return 0;
    case SYS_faccessat: *look = looks(first, args[1], 0); return 0;
    case 439: *look = looks(first, args[1], args[3]); return 0; /* faccessat2 */
    case SYS_execve: *look = (struct look){RUNS, AT_FDCWD, args[0], 0, 0}; return 0;
    case SYS_execveat: *look = (struct look){RUNS, first, args[1], 0, nofollow(args[4])}; return 0;
    default: { /* openat2 */
        uint64_t flags;
        int error = read_how(call->pid, args[2], &flags);
        if (error == 0) *look = opens(first, args[1], flags);
        return error;
    }
    }
}

/* The link in /proc that leads to where a relative path of a program starts. */
static void link_to_start(char out[64], uint32_t pid, int directory) {
    if (directory == AT_FDCWD) snprintf(out, 64, "/proc/%u/cwd", pid);
    else snprintf(out, 64, "/proc/%u/fd/%d", pid, directory);
}

static void append(struct sink *sink, enum kind kind, const char *path, size_t length,
                   const struct stat *state) {
    struct {
        struct head head;
        char path[2 * PATH_MAX];
    } record;
    if (length > sizeof record.path) return;
    fill_head(&record.head, kind, length, state);
    memcpy(record.path, path, length);
    size_t bytes = sizeof record.head + length;
    if (write(sink->records, &record, bytes) != (ssize_t)bytes) sink->lost++;
}

/* Whether a path may mean something else to this process than to the program. Of what lies in /dev
 * only files in memory are ever listed. */
static int is_of_the_process(const char *path) {
    if (strncmp(path, "/proc/", 6) == 0) return 1;
    return strncmp(path, "/dev/", 5) == 0 && strstr(path, "shm/") == NULL;
}

static enum kind kind_of_open(const char *path, const struct look *look, const struct stat *state,
                              int found) {
    uint64_t flags = look->flags;
    if ((flags & O_ACCMODE) == O_WRONLY || (flags & O_TRUNC) != 0) return WRITTEN;
    if (found && (flags & O_CREAT) != 0 && (flags & O_EXCL) != 0) return PRESENT;
    if (!found) return (flags & O_CREAT) != 0 ? WRITTEN : kind_of_failure(errno);
    if ((flags & O_PATH) != 0 || S_ISDIR(state->st_mode)) return PRESENT;
    if (S_ISLNK(state->st_mode)) return REFUSED; /* O_NOFOLLOW */
    if (syscall(SYS_faccessat, AT_FDCWD, path, R_OK) != 0) return REFUSED;
    return S_ISREG(state->st_mode) ? READ : STREAM;
}

/* Notes a program under the name that it has when all links are followed, as recorder.c does. */
static void note_program(struct sink *sink, const char *path) {
    char link[64], real[PATH_MAX];
    struct stat state;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_PATH | O_CLOEXEC, 0);
    if (fd < 0) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, real, sizeof real);
    int known = syscall(SYS_newfstatat, fd, "", &state, AT_EMPTY_PATH) == 0;
    close(fd);
    if (known && length > 0 && real[0] == '/') append(sink, PROGRAM, real, (size_t)length, &state);
}

/* Looks for a file and notes it.
 *
 * path is how this process reaches it; name, of a length, is what it is called. */
static int note_path(struct sink *sink, const struct call *call, const struct look *look,
                     const char *path, const char *name, size_t length) {
    struct stat state;
    int found = syscall(SYS_newfstatat, AT_FDCWD, path, &state, look->at_flags) == 0;
    int error = found ? 0 : errno;
    enum kind kind = found ? PRESENT : kind_of_failure(error);
    if (look->what == OPENS) kind = kind_of_open(path, look, &state, found);
    /* A directory of PATH that may not be searched is as one without the program. */
    if (look->what == RUNS && !found) kind = ABSENT;
    /* It is only now sure that all of this was asked of the program and not of one of its number.
     */
    if (!ajit_watch_is_waiting(sink, call->id)) return 0;
    if (look->what == RUNS && found) note_program(sink, path);
    else append(sink, kind, name, length, kind == READ ? &state : NULL);
    if (kind != ABSENT || look->what == RUNS) return 0;
    return error == ENOENT || error == ENOTDIR ? -error : 0;
}

static int note_look(struct sink *sink, const struct call *call, const struct look *look) {
    char given[PATH_MAX], name[2 * PATH_MAX], path[PATH_MAX + 64];
    int length = read_path(call->pid, look->path, given);
    if (length == -EFAULT || length == -ENAMETOOLONG) return 0; /* the kernel will say so as well */
    if (length < 0) return length;
    if (length == 0 || is_of_the_process(given)) return 0;
    if (given[0] == '/') return note_path(sink, call, look, given, given, (size_t)length);
    link_to_start(path, call->pid, look->directory);
    ssize_t start = readlink(path, name, PATH_MAX - 1);
    if (start < 0) return errno == ENOENT ? 0 : -errno; /* no such descriptor */
    if (name[0] != '/') return 0;                       /* outside of this root, or no directory */
    name[start] = '/';
    memcpy(name + start + 1, given, (size_t)length);
    size_t end = strlen(path);
    path[end] = '/';
    memcpy(path + end + 1, given, (size_t)length + 1);
    return note_path(sink, call, look, path, name, (size_t)start + 1 + (size_t)length);
}

int ajit_watch_note(struct sink *sink, const struct call *call) {
    struct look look;
    int result = understand(call, &look);
    if (result == 0) result = note_look(sink, call, &look);
    if (result == 0 || result == -ENOENT || result == -ENOTDIR) return result;
    /* Not permitted, most likely. A program that was killed meanwhile does not count. */
    if (ajit_watch_is_waiting(sink, call->id)) sink->lost++;
    return 0;
}
