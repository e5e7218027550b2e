/* One stat for each of many paths.
 *
 * A look-up of a kernel asks what some hundred files are today. Called one by one from Python, each
 * costs as much again as the system call, and takes the GIL twice; here the GIL is released once.
 * Uses nothing but libc, and keeps nothing.
 */

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

/* What a path is. Read by ajit/_compile/recorder/stat_files.py: change both. */
enum { UNKNOWN = -1, ABSENT = 0, REGULAR = 1, DIRECTORY = 2, OTHER = 3 };

struct file_state {
    int64_t what;
    uint64_t device;
    uint64_t inode;
    int64_t size;
    int64_t mtime_ns;
    int64_t ctime_ns;
};

static int64_t nanoseconds(struct timespec time) {
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int64_t why_not(int error) {
    switch (error) {
    case ENOENT:
    case ENOTDIR:
    case EACCES:
    case ELOOP:
    case ENAMETOOLONG: return ABSENT;
    default: /* the file system does not answer as it should: that tells nothing about the file */
        return UNKNOWN;
    }
}

static int64_t kind_of(mode_t mode) {
    return S_ISREG(mode) ? REGULAR : S_ISDIR(mode) ? DIRECTORY : OTHER;
}

/* Fills one state for each path; the paths follow each other, each with a NUL at its end. Symbolic
 * links are followed, as compilers do. Fields of what is not there are 0. */
__attribute__((visibility("default"))) void ajit_stat_files(const char *paths, size_t count,
                                                            struct file_state *states) {
    for (size_t i = 0; i < count; i++, paths += strlen(paths) + 1) {
        struct stat status;
        memset(&states[i], 0, sizeof states[i]);
        if (stat(paths, &status) != 0) {
            states[i].what = why_not(errno);
            continue;
        }
        states[i].what = kind_of(status.st_mode);
        states[i].device = status.st_dev;
        states[i].inode = status.st_ino;
        states[i].size = status.st_size;
        states[i].mtime_ns = nanoseconds(status.st_mtim);
        states[i].ctime_ns = nanoseconds(status.st_ctim);
    }
}
