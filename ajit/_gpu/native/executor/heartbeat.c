/* The heartbeat: what the CUDA thread is at, and since when, for anybody who can map a file.
 *
 * A few words that the thread writes before and after each operation, with plain stores: no lock,
 * no system call, no GIL. Each is right by itself; a reader that wants several together reads
 * `progress` before and after.
 */
#include "executor.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FILE_BYTES = 4096 };

/* Others of this user may open the file for writing. One that is cut would be the end of who writes
 * into its mapping (SIGBUS). */
enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

static struct ajit_heartbeat *map_file(int *fd) {
    *fd = memfd_create("ajit-heartbeat", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd < 0) return NULL;
    void *memory = MAP_FAILED;
    if (!ftruncate(*fd, FILE_BYTES) && !fcntl(*fd, F_ADD_SEALS, SEALS))
        memory = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (memory != MAP_FAILED) return memory;
    close(*fd);
    *fd = -1;
    return NULL;
}

/* Returns 0, or -1 without memory. Without a file, other processes cannot look; everything else
 * works. */
int ajit_heartbeat_open(struct ajit_executor *executor) {
    executor->heartbeat = map_file(&executor->heartbeat_fd);
    if (!executor->heartbeat) executor->heartbeat = calloc(1, sizeof *executor->heartbeat);
    if (!executor->heartbeat) return -1;
    executor->heartbeat->magic = AJIT_HEARTBEAT_MAGIC;
    executor->heartbeat->pid = (uint64_t)getpid();
    return 0;
}

void ajit_heartbeat_close(struct ajit_executor *executor) {
    if (!executor->heartbeat) return;
    if (executor->heartbeat_fd < 0) {
        free(executor->heartbeat);
        return;
    }
    munmap(executor->heartbeat, FILE_BYTES);
    close(executor->heartbeat_fd);
}

void ajit_heartbeat_enter(struct ajit_executor *executor, uint32_t operation, uint64_t number) {
    struct ajit_heartbeat *beat = executor->heartbeat;
    uint64_t progress = atomic_load_explicit(&beat->progress, memory_order_relaxed);
    atomic_store_explicit(&beat->progress, progress + 1, memory_order_relaxed);
    atomic_store_explicit(&beat->operation, operation, memory_order_relaxed);
    atomic_store_explicit(&beat->number, number, memory_order_relaxed);
    atomic_store_explicit(&beat->entered_ns, ajit_now_ns(), memory_order_release);
}

void ajit_heartbeat_leave(struct ajit_executor *executor) {
    atomic_store_explicit(&executor->heartbeat->entered_ns, 0, memory_order_release);
}
