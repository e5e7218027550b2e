/* What goes between Python and the executor: submissions, records, and what Python reads in place.
 *
 * Mirrored in ajit/_gpu/wire.py; a test compares the sizes. The rules R1 to R5 stand in executor.h.
 */
#ifndef AJIT_EXECUTOR_WIRE_H
#define AJIT_EXECUTOR_WIRE_H

#include <stdatomic.h>
#include <stdint.h>

#include "driver.h"

/* --- what Python submits --------------------------------------------------------------------- */

enum ajit_opcode {
    /* Work: goes to the driver at once, in the order of submission. */
    AJIT_LAUNCH = 1,
    AJIT_COPY_TO_DEVICE = 2,
    AJIT_COPY_TO_HOST = 3,
    AJIT_COPY_ON_DEVICE = 4,
    AJIT_FILL = 5,
    AJIT_MARK = 6,    /* nothing: the ticket is done when everything before it is */
    AJIT_RECORD = 7,  /* an event */
    AJIT_WAIT = 8,    /* for an event */
    AJIT_STEP = 9,    /* says that everything before it in the submission is done */
    AJIT_COPIES = 10, /* many copies, in no particular order */
    AJIT_JOIN = 11,   /* waits for what has been submitted to another stream */
    AJIT_LAUNCH_GRAPH = 12,
    /* Service, the second lane: waits while there is work. */
    AJIT_ALLOC = 16,
    AJIT_ALLOC_HOST = 17,
    AJIT_LOAD = 18,
    AJIT_MAKE_STREAM = 19,
    AJIT_MAKE_EVENT = 20,
    AJIT_ELAPSED = 21, /* from one event to another */
    AJIT_CAPTURE = 22, /* makes a graph of the operations that follow in the submission */
    /* For the serve loop itself; alone in their submission. */
    AJIT_CLOSE_PORT = 32,
    AJIT_CALL = 33,
    AJIT_STOP = 34,
    /* Never submitted: what the heartbeat says of the thread's own doings. */
    AJIT_FREEING = 48,
    AJIT_ASKING = 49,
};

struct ajit_submission {
    uint64_t port;
    uint64_t number;
    uint64_t stream;      /* 0: the executor's own */
    uint64_t deadline_ns; /* after its submission; 0: as the options say */
    uint32_t lane;        /* of the stream, see flight.c */
    uint32_t timed;       /* whether the device tells how long it worked */
    uint32_t count;       /* operations that follow */
    uint32_t bytes;       /* of all of them */
};

struct ajit_operation {
    uint32_t opcode;
    uint32_t bytes; /* with this header; a multiple of 16 */
};

enum ajit_launch_flag {
    AJIT_CLUSTERED = 1,
    AJIT_PROGRAMMATIC = 2, /* may begin before what is in front of it in the stream has ended */
    AJIT_PRIORITISED = 4,
};

struct ajit_launch {
    struct ajit_operation header;
    uint64_t function;
    uint32_t argument_bytes;
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t shared_bytes;
    uint32_t cluster[3]; /* blocks */
    uint16_t flags;      /* enum ajit_launch_flag; 0: an ordinary launch */
    int16_t priority;    /* the arguments follow at a multiple of 16 */
};

struct ajit_copy {
    struct ajit_operation header;
    uint64_t target; /* 0: what this submission's AJIT_ALLOC returned */
    uint64_t source;
    uint64_t size;
};

struct ajit_fill {
    struct ajit_operation header;
    uint64_t target;
    uint64_t size;
    uint64_t value;
};

/* Also every other operation that has one number or none: an event, a stream, a graph, a priority,
 * the flags of an event, the index of a step. */
struct ajit_alloc {
    struct ajit_operation header;
    uint64_t size;
};

struct ajit_elapsed {
    struct ajit_operation header;
    uint64_t start, end; /* events */
    uint64_t reserved;
};

struct ajit_copies {
    struct ajit_operation header;
    uint64_t count; /* then as many targets, sources and sizes */
};

struct ajit_load {
    struct ajit_operation header;
    uint64_t image;
    uint64_t names; /* const char *const * */
    uint64_t count;
};

enum ajit_refusal {
    AJIT_ACCEPTED = 0,
    AJIT_FULL = 1,
    AJIT_STOPPED = 2,
    AJIT_LOST = 3,
    AJIT_NO_MEMORY = 4,
};

/* Inside: memory is used up now, and frees are on their way. */
enum { AJIT_LATER = -2 };

/* --- what Python gets back ------------------------------------------------------------------- */

enum ajit_flag {
    AJIT_SETTLED = 1,  /* the outcome is known: awaiting tasks go on */
    AJIT_RETIRED = 2,  /* the device does not touch the ticket's memory any more */
    AJIT_IS_LOST = 4,  /* the code is that of a context that is unusable from now on */
    AJIT_EXPIRED = 8,  /* past the deadline, and the device is still at it */
    AJIT_TIMED = 32,   /* `detail` is how long the device worked, in nanoseconds */
    AJIT_STEPPED = 16, /* `detail` is the index of a step that is done; the ticket goes on */
};

struct ajit_record {
    uint64_t number;
    int32_t code;
    uint32_t flags;
    uint64_t value;  /* address of the resource that was made */
    uint64_t detail; /* index of the operation that failed; for a load, 1 + index of the name; what
                      * AJIT_ELAPSED found, or the device took, in nanoseconds */
    uint64_t nanoseconds; /* from submission to the end of the work on the device */
};

#define AJIT_RECORDS 256

/* --- what Python reads in place -------------------------------------------------------- */

#define AJIT_MAX_PARAMS 256

struct ajit_function {
    CUfunction handle;
    uint32_t param_count;
    uint32_t param_bytes;
    int32_t max_threads, shared_bytes, local_bytes, registers, max_dynamic_shared_bytes;
    int32_t large_clusters;  /* whether it may be launched in clusters that not every GPU has */
    uint32_t *param_offsets; /* param_count offsets, then as many sizes */
};

struct ajit_device_info {
    char name[256];
    uint64_t total_memory_bytes;
    int32_t driver_version;
    int32_t major, minor;
    int32_t max_threads;
    int32_t max_block[3];
    int32_t max_grid[3];
    int32_t shared_bytes, shared_optin_bytes;
    int32_t warp_size, multiprocessors;
    int32_t clusters; /* whether blocks can be launched in clusters */
    int32_t memory_pools;
};

/* Written by the CUDA thread, read by anybody: each number is right by itself. */
struct ajit_counters {
    _Atomic uint64_t dispatched, settled, failed, launches, copies, allocations, loads;
    _Atomic uint64_t in_flight, live_memory_bytes, live_resources, deferred_frees;
    _Atomic uint64_t lost_callbacks, expired, sleeps, stalls;
    _Atomic uint64_t behind_loads; /* tickets that were submitted while a module was being loaded */
    _Atomic uint64_t behind_loads_ns, longest_behind_load_ns; /* how long they stood behind it */
    _Atomic uint64_t reserved_memory_bytes; /* by the pool, what is in use included; 0: no pool */
};

/* The heartbeat: in a file that other processes may map. Written by the CUDA thread. */
struct ajit_heartbeat {
    uint64_t magic, pid;
    _Atomic uint64_t entered_ns; /* CLOCK_MONOTONIC; when it began what it is at; 0: it waits */
    _Atomic uint64_t operation;  /* enum ajit_opcode */
    _Atomic uint64_t number;     /* of the ticket */
    _Atomic uint64_t progress;   /* operations begun so far */
    _Atomic uint64_t in_flight;
    _Atomic uint64_t oldest_ns; /* when the oldest ticket in flight was submitted; 0: none */
    _Atomic uint64_t lost;      /* the sticky code */
};

#define AJIT_HEARTBEAT_MAGIC 0x3130544145424a41u /* "AJBEAT01" */

struct ajit_options {
    uint64_t capacity; /* of the ring, a power of two */
    uint64_t spin_ns;
    uint64_t deadline_ns;
    uint64_t memory_limit_bytes; /* of device memory; 0: what the device has */
    uint64_t stall_ns;     /* in one operation, after which the watchdog speaks up; 0: never */
    uint64_t pool_idle_ns; /* without work, after which the pool gives back; 0: never */
    int32_t ordinal;
    int32_t dump_signal;  /* makes the process print its stacks; 0: none */
    int32_t plain_memory; /* no pool: memory that others than this device may use */
    int32_t time_tickets; /* all of them, asked or not */
};

#endif
