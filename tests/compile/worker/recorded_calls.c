/* Makes each call that the recorder interposes, on paths below the directory that it is given, and
 * says on standard output what errno was after the calls that fail. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void failing(const char *call) { printf("%s %d\n", call, errno); }

static void each_call(void) {
    struct stat state;
    struct statx more;
    char buffer[16];
    int fd = open("read-by-open", O_RDONLY);
    if (read(fd, buffer, sizeof buffer) != 4) exit(1);
    close(fd);
    close(open64("read-by-open64", O_RDONLY));
    int directory = open(".", O_RDONLY | O_DIRECTORY);
    close(openat(directory, "read-by-openat", O_RDONLY));
    close(openat64(directory, "read-by-openat64", O_RDONLY));
    fclose(fopen("read-by-fopen", "r"));
    fclose(fopen64("read-by-fopen64", "rb"));
    errno = 0;
    if (open("missed-by-open", O_RDONLY) < 0) failing("open");
    errno = 0;
    if (fopen("missed-by-fopen", "r") == NULL) failing("fopen");
    errno = 0;
    if (stat("missed-by-stat", &state) < 0) failing("stat");
    if (lstat("missed-by-lstat", &state) < 0) failing("lstat");
    if (fstatat(directory, "missed-by-fstatat", &state, 0) < 0) failing("fstatat");
    if (statx(directory, "missed-by-statx", 0, STATX_SIZE, &more) < 0) failing("statx");
    if (access("missed-by-access", R_OK) < 0) failing("access");
    if (faccessat(directory, "missed-by-faccessat", R_OK, 0) < 0) failing("faccessat");
    if (open("missing-folder/x.h", O_RDONLY) < 0) failing("open in no folder");
    if (open("read-by-open/x.h", O_RDONLY) < 0) failing("open below a file");
    if (open("loop", O_RDONLY) < 0) failing("open of a loop");
    if (stat("looked-by-stat", &state) != 0 || access("looked-by-access", F_OK) != 0) exit(1);
    close(open("pipe", O_RDONLY | O_NONBLOCK));
    close(open("made", O_WRONLY | O_CREAT, 0600));
    if (rename("made", "renamed") != 0 || link("renamed", "linked") != 0) exit(1);
    if (symlink("renamed", "pointing") != 0 || unlink("linked") != 0) exit(1);
    close(open("renamed", O_RDONLY));
}

static void *many_opens(void *unused) {
    for (int n = 0; n < 500; ++n) close(open("read-by-open", O_RDONLY));
    return unused;
}

static void many_processes(void) {
    for (int n = 0; n < 4; ++n) {
        if (fork() != 0) continue;
        pthread_t threads[4];
        for (int t = 0; t < 4; ++t) pthread_create(&threads[t], NULL, many_opens, NULL);
        for (int t = 0; t < 4; ++t) pthread_join(threads[t], NULL);
        _exit(0);
    }
    while (wait(NULL) > 0) {
    }
}

int main(int count, char **arguments) {
    if (count < 3 || chdir(arguments[1]) != 0) return 2;
    if (strcmp(arguments[2], "closed") == 0)
        for (int fd = 3; fd < 256; ++fd) close(fd); /* the recorder's own descriptor as well */
    if (strcmp(arguments[2], "many") == 0) many_processes();
    else each_call();
    return 0;
}
