/* Watching: what programs ask for that are linked statically and so ignore the recorder.
 *
 * The kernel stops such a program at every system call by which files are found, and tells a thread
 * of the worker (seccomp with user notification, Linux 5.5). The thread writes the same records as
 * recorder.c and lets the call go on. Threads and children of the program are watched as well: they
 * inherit the filter.
 *
 * Between fork and exec the child installs the filter, and hands its listening descriptor to the
 * thread over a pair of sockets. Where that is forbidden, the program runs unwatched.
 *
 * Rules:
 * - Nothing hangs. The listener belongs to the worker alone: when it is closed, or the worker dies,
 *   waiting calls and all later ones fail with ENOSYS, and the program ends with an error.
 * - The thread allocates nothing and holds no lock, since the worker forks beside it; it blocks
 *   all signals, which are the main thread's. One program is watched at a time.
 * - io_uring, which opens files past any filter, is not there for a watched program.
 *
 * Not seen: programs of another architecture (32 bits).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "watch.h"

#define EXPORTED __attribute__((visibility("default")))

#if defined __x86_64__
#define ARCH AUDIT_ARCH_X86_64
#elif defined __aarch64__
#define ARCH AUDIT_ARCH_AARCH64
#else
#define ARCH 0 /* no program is watched */
#endif

/* From linux/seccomp.h, whose version at build time may be older than the kernel at run time. */
#define RETURN_NOTIFY 0x7fc00000u
#define FLAG_SPEC_ALLOW (1u << 2) /* else older kernels slow the program down */
#define FLAG_NEW_LISTENER (1u << 3)
#define FLAG_WAIT_KILLABLE (1u << 5) /* signals do not interrupt a call that waits; Linux 5.19 */
#define ANSWER_CONTINUE 1u
struct answer {
    uint64_t id;
    int64_t value;
    int32_t error;
    uint32_t flags;
};
#define RECEIVE _IOWR('!', 0, struct call)
#define SEND _IOWR('!', 1, struct answer)
#define IS_WAITING _IOW('!', 2, uint64_t)
#define SET_FLAGS _IOW('!', 4, uint64_t)
#define WAKE_HERE 1ul /* wake the program on this processor: a call costs a third; Linux 6.6 */

#define IO_URING_SETUP 425

/* The one watch of this process; start and stop are called by its main thread. */
static struct {
    pthread_t thread;
    int ours, theirs; /* ends of the pair of sockets */
    int stop;         /* an eventfd */
    int watched;      /* whether the listener has come */
    struct sink sink;
} watch;

int ajit_watch_is_waiting(const struct sink *sink, uint64_t id) {
    return ioctl(sink->listener, IS_WAITING, &id) == 0;
}

/* --- in the child */

static int make_filter(struct sock_filter *filter) {
    const unsigned char count = (unsigned char)WATCHED_CALLS;
    struct sock_filter *next = filter;
    *next++ =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    *next++ =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned char i = 0; i < count; i++) /* jumps over the rest, and the two lines after it */
        *next++ =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)watched_calls[i],
                                         (unsigned char)(count - i + 2), 0);
    *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IO_URING_SETUP, 0, 1);
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, RETURN_NOTIFY);
    return (int)(next - filter);
}

/* Returns the listener, or -1. */
static int install_filter(void) {
    struct sock_filter filter[WATCHED_CALLS + 8];
    struct sock_fprog program = {(unsigned short)make_filter(filter), filter};
    unsigned flags = FLAG_NEW_LISTENER | FLAG_SPEC_ALLOW;
    /* Without it only a privileged process may filter; it means that no program gains privileges.
     */
    if (ARCH == 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
    int fd =
        (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags | FLAG_WAIT_KILLABLE, &program);
    if (fd < 0) fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    return fd;
}

union rights {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
};

static int send_descriptor(int socket, int fd) {
    char byte = 0;
    struct iovec data = {&byte, 1};
    union rights rights = {.head = {CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS}};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = rights.room,
                             .msg_controllen = sizeof rights.room};
    memcpy(CMSG_DATA(&rights.head), &fd, sizeof fd);
    return sendmsg(socket, &message, MSG_NOSIGNAL) == 1 ? 0 : -errno;
}

/* Lets this process be watched; between fork and exec. socket is what ajit_watch_start() returned.
 * Returns 0, or a negative errno if it is not. */
EXPORTED int ajit_watch_install(int socket) {
    int listener = install_filter();
    if (listener < 0) return -errno;
    int result = send_descriptor(socket, listener);
    close(listener); /* if it was not sent, every watched call now fails */
    return result;
}

/* --- the thread of the worker */

/* Returns the descriptor that came, or -1. */
static int receive_descriptor(int socket) {
    char byte;
    int fd = -1;
    struct iovec data = {&byte, 1};
    union rights rights;
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = rights.room,
                             .msg_controllen = sizeof rights.room};
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1) return -1;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head != NULL && head->cmsg_type == SCM_RIGHTS) memcpy(&fd, CMSG_DATA(head), sizeof fd);
    return fd;
}

/* Waits until fd has something. Returns 0 if it never will, or if the watch is to stop. */
static int wait_for(int fd) {
    struct pollfd both[] = {{.fd = fd, .events = POLLIN}, {.fd = watch.stop, .events = POLLIN}};
    int count = poll(both, 2, -1);
    if (count < 0) return errno == EINTR;
    return both[1].revents == 0 && (both[0].revents & POLLIN) != 0;
}

/* Answers one call. Returns 0 if there is an error after which no call can be answered. */
static int serve_call(void) {
    struct call call;
    memset(&call, 0, sizeof call); /* the kernel insists */
    if (ioctl(watch.sink.listener, RECEIVE, &call) != 0)
        return errno == EINTR || errno == ENOENT; /* its thread was killed meanwhile */
    int error = ajit_watch_note(&watch.sink, &call);
    struct answer answer = {
        .id = call.id, .error = error, .flags = error == 0 ? ANSWER_CONTINUE : 0};
    return ioctl(watch.sink.listener, SEND, &answer) == 0 || errno == ENOENT;
}

static void *serve(void *unused) {
    if (!wait_for(watch.ours)) return unused;
    watch.sink.listener = receive_descriptor(watch.ours);
    if (watch.sink.listener < 0) return unused;
    watch.watched = 1;
    ioctl(watch.sink.listener, SET_FLAGS, WAKE_HERE);
    while (wait_for(watch.sink.listener) && serve_call()) continue;
    close(watch.sink.listener);
    return unused;
}

static void close_all(void) {
    close(watch.ours);
    close(watch.theirs);
    close(watch.stop);
}

static int start_thread(void) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* the thread begins with what is set here */
    int error = pthread_create(&watch.thread, NULL, serve, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -error;
}

/* Begins to wait for a program to watch. records is a descriptor in append mode. Returns the socket
 * for the child, or a negative errno. */
EXPORTED int ajit_watch_start(int records) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return -errno;
    watch.ours = pair[0], watch.theirs = pair[1];
    watch.watched = 0;
    watch.sink = (struct sink){.records = records, .listener = -1, .lost = 0};
    watch.stop = eventfd(0, EFD_CLOEXEC);
    int error = watch.stop < 0 ? -errno : start_thread();
    if (error == 0) return watch.theirs;
    close_all();
    return error;
}

/* Ends the watch; what is still watched then fails at its next call. Returns how many calls could
 * not be recorded, or -1 if no program was watched. */
EXPORTED long ajit_watch_stop(void) {
    uint64_t one = 1;
    while (write(watch.stop, &one, sizeof one) < 0 && errno == EINTR) continue;
    pthread_join(watch.thread, NULL);
    close_all();
    return watch.watched ? watch.sink.lost : -1;
}
