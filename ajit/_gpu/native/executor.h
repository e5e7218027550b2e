/* The executor: one thread that talks to the driver, for one device context.
 *
 * Rules, each of them shown by a test:
 *
 *   R1  ajit never enters the driver with the GIL held. Only `ajit_serve_begin`, `ajit_serve` and
 *       `ajit_serve_end` call the driver; Python calls them through ctypes.CDLL, which lets the
 *       GIL go. Everything else here touches memory only, and is called through ctypes.PyDLL.
 *   R2  Nothing here takes the GIL on a thread of the driver: the one host function is C, gets a
 *       ticket, and at most writes an eventfd.
 *   R3  Finalizers never call the driver: they post (`ajit_release`), which cannot fail or wait.
 *   R4  No lock is held while waiting for the GIL: there is no lock here at all.
 *   R5  No Python symbol in here.
 *
 * Who owns what. A `ticket` is one submission: it is made by the submitting thread, put on the
 * ring, performed by the CUDA thread, finished by the host function, and told to the event loop
 * through its `port`. A `resource` is memory or a module; only the CUDA thread touches its driver
 * handle; Python holds its address, and gives it back exactly once.
 */
#ifndef AJIT_EXECUTOR_H
#define AJIT_EXECUTOR_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "executor_driver.h"

#define AJIT_API __attribute__((visibility("default")))

/* --- what Python submits --------------------------------------------------------------------- */

enum ajit_opcode {
    /* Work: goes to the driver at once, in the order of submission. */
    AJIT_LAUNCH = 1,
    AJIT_COPY_TO_DEVICE = 2,
    AJIT_COPY_TO_HOST = 3,
    AJIT_COPY_ON_DEVICE = 4,
    AJIT_FILL = 5,
    AJIT_MARK = 6, /* nothing: the ticket is done when everything before it is */
    /* Service, the second lane: waits while there is work. */
    AJIT_ALLOC = 16,
    AJIT_ALLOC_HOST = 17,
    AJIT_LOAD = 18,
    /* For the serve loop itself; alone in their submission. */
    AJIT_CLOSE_PORT = 32,
    AJIT_CALL = 33,
    AJIT_STOP = 34,
};

/* The layouts are mirrored in ajit/_gpu/wire.py, and a test compares their sizes. */
struct ajit_submission {
    uint64_t port;
    uint64_t number;
    uint64_t stream; /* 0: the executor's own */
    uint32_t count;  /* operations that follow */
    uint32_t bytes;  /* of all of them */
};

struct ajit_operation {
    uint32_t opcode;
    uint32_t bytes; /* with this header; a multiple of 16 */
};

struct ajit_launch {
    struct ajit_operation header;
    uint64_t function;
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t shared_bytes;
    uint32_t argument_bytes;
    uint64_t reserved[2]; /* the arguments follow at a multiple of 16 */
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

struct ajit_alloc {
    struct ajit_operation header;
    uint64_t size;
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
    AJIT_SETTLED = 1, /* the outcome is known: awaiting tasks go on */
    AJIT_RETIRED = 2, /* the device does not touch the ticket's memory any more */
    AJIT_IS_LOST = 4, /* the code is that of a context that is unusable from now on */
    AJIT_EXPIRED = 8, /* past the deadline, and the device is still at it */
};

struct ajit_record {
    uint64_t number;
    int32_t code;
    uint32_t flags;
    uint64_t value;  /* address of the resource that was made */
    uint64_t detail; /* index of the operation that failed; for a load, 1 + index of the name */
    uint64_t nanoseconds; /* from submission to the end of the work on the device */
};

#define AJIT_RECORDS 256

/* --- resources ------------------------------------------------------------------------------- */

#define AJIT_MAX_PARAMS 256

struct ajit_function {
    CUfunction handle;
    uint32_t param_count;
    uint32_t param_bytes;
    int32_t max_threads, shared_bytes, local_bytes, registers, max_dynamic_shared_bytes;
    int32_t reserved;
    uint32_t *param_offsets; /* param_count offsets, then as many sizes */
};

/* What a free may do to the work that is going on: cuMemFree can wait for the device. */
enum ajit_urgency {
    AJIT_WHEN_IDLE, /* nothing may be in flight, or it has waited for long */
    AJIT_WHEN_SAFE, /* nothing in flight may be using it */
    AJIT_AT_ONCE,   /* the thread ends */
};

enum ajit_resource_kind { AJIT_MEMORY = 1, AJIT_HOST_MEMORY = 2, AJIT_MODULE = 3 };

struct ajit_resource {
    uint64_t kind;
    uint64_t pointer; /* device or host address, or the CUmodule */
    uint64_t size;    /* bytes; for a module the number of functions */
    struct ajit_function *functions;
    /* What stands below belongs to the CUDA thread, save `posted`, the link of the post box. */
    struct ajit_port *port;
    struct ajit_resource *previous, *next;
    struct ajit_resource *posted;
    uint64_t after; /* dispatch number that must have retired before this is freed */
    uint64_t deferred_ns;
    bool alive;     /* the driver still has it */
    bool released;  /* Python has given it back: free the record too */
};

/* --- tickets --------------------------------------------------------------------------------- */

enum ajit_state {
    AJIT_IN_FLIGHT,
    AJIT_FINISHED,      /* settled and retired */
    AJIT_OVERDUE,       /* settled by its deadline, not retired */
    AJIT_OVERDUE_ENDED, /* settled by its deadline, and retired later */
};

struct ajit_ticket;

struct ajit_note { /* one message to an event loop */
    struct ajit_note *next;
    struct ajit_ticket *ticket;
    uint32_t flags;
};

struct ajit_ticket {
    struct ajit_note settled, retired;
    struct ajit_ticket *next; /* in a queue of the CUDA thread */
    struct ajit_port *port;
    struct ajit_resource *made;
    uint64_t number;
    uint64_t sequence; /* dispatch number */
    CUstream stream;
    uint64_t detail;
    uint64_t submitted_ns, dispatched_ns;
    _Atomic uint64_t finished_ns; /* the host function and the deadline may write at once */
    int32_t code;
    uint32_t count, bytes;
    bool has_callback;
    _Atomic int state;
    _Atomic int references;
    alignas(16) unsigned char operations[];
};

/* --- ports: the way to one event loop --------------------------------------------------------- */

struct ajit_port {
    _Atomic(struct ajit_note *) head; /* newest first; AJIT_PORT_CLOSED once nobody reads any more */
    _Atomic int spinning;             /* the loop's thread looks at `head` by itself */
    _Atomic int references;           /* the owner and every ticket */
    int event_fd;
    struct ajit_executor *executor;
    /* Below: the loop's thread only. */
    struct ajit_note *pending; /* taken from `head`, oldest first, not handed over yet */
    uint64_t wanted;           /* the ticket that `ajit_port_wait` spins for, or 0; set by Python */
    uint64_t hogged_ns;        /* spun since other tasks had a turn; Python sets it to 0 */
    uint64_t spin_ns, hog_ns;  /* limits of one wait, and of all since the last turn */
    uint64_t average_ns;       /* recent time from submission to completion */
    uint32_t skipped;          /* waits since the last that spun */
    struct ajit_record records[AJIT_RECORDS];
};

/* --- the executor ---------------------------------------------------------------------------- */

struct ajit_slot { /* of the ring, see executor_ring.c */
    _Atomic uint64_t turn;
    struct ajit_ticket *ticket;
};

struct ajit_queue { /* first in, first out; the CUDA thread only */
    struct ajit_ticket *first, *last;
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
};

/* Written by the CUDA thread, read by anybody: each number is right by itself. */
struct ajit_counters {
    _Atomic uint64_t dispatched, settled, failed, launches, copies, allocations, loads;
    _Atomic uint64_t in_flight, live_memory_bytes, live_resources, deferred_frees;
    _Atomic uint64_t lost_callbacks, expired, sleeps;
    _Atomic uint64_t entered_ns; /* when the thread entered what it is doing now; 0: it waits */
};

struct ajit_options {
    uint64_t capacity; /* of the ring, a power of two */
    uint64_t spin_ns;
    uint64_t deadline_ns;
    int32_t ordinal;
    int32_t reserved;
};

struct ajit_executor {
    struct ajit_driver driver;
    struct ajit_options options;
    struct ajit_device_info info;
    struct ajit_counters counters;
    char library[512], error[512];
    CUdevice device;
    CUcontext context;
    CUstream stream;
    _Atomic int lost; /* the sticky code, or 0 */
    _Atomic int stopped;
    _Atomic int submitting; /* threads inside ajit_submit */
    /* The ring. */
    struct ajit_slot *slots;
    alignas(64) _Atomic uint64_t tail; /* producers */
    alignas(64) _Atomic uint64_t head; /* the CUDA thread */
    alignas(64) _Atomic uint32_t asleep;
    _Atomic(struct ajit_resource *) posts;
    /* Below: the CUDA thread only. */
    struct ajit_queue service, flight;
    struct ajit_resource *held;     /* posts taken, waiting for the ring to pass `held_until` */
    uint64_t held_until;
    struct ajit_resource *deferred; /* to be freed, oldest first */
    struct ajit_resource **deferred_end;
    struct ajit_resource resources; /* list head of all that the driver has */
    struct ajit_ticket *call;       /* the AJIT_CALL that Python runs now */
    uint64_t next_sequence, retired_sequence;
    uint64_t swept_ns, unlooked;
    bool starved;  /* the first of the second lane waits for memory */
    bool stopping; /* nothing waits any more */
};

/* Called through PyDLL: memory only, never the driver, never a wait that is not bounded. */
AJIT_API struct ajit_executor *ajit_executor_create(const char *library, const struct ajit_options *);
AJIT_API void ajit_executor_destroy(struct ajit_executor *);
AJIT_API int ajit_submit(const struct ajit_submission *);
AJIT_API void ajit_post(struct ajit_executor *, struct ajit_resource *);
AJIT_API struct ajit_port *ajit_port_create(struct ajit_executor *, uint64_t spin_ns,
                                            uint64_t hog_ns);
AJIT_API void ajit_port_release(struct ajit_port *);
AJIT_API uint32_t ajit_port_drain(struct ajit_port *);
AJIT_API uint32_t ajit_port_wait(struct ajit_port *);
AJIT_API void ajit_layout(uint64_t *sizes);

/* Called through CDLL, by the CUDA thread only. */
AJIT_API int ajit_serve_begin(struct ajit_executor *, const char *thread_name);
AJIT_API int ajit_serve(struct ajit_executor *, uint64_t *number);
AJIT_API void ajit_serve_called(struct ajit_executor *, int code);
AJIT_API int ajit_serve_end(struct ajit_executor *);

/* Inside. */
uint64_t ajit_now_ns(void);

bool ajit_ring_push(struct ajit_executor *, struct ajit_ticket *);
struct ajit_ticket *ajit_ring_pop(struct ajit_executor *);
void ajit_ring_wake(struct ajit_executor *);
bool ajit_ring_wait(struct ajit_executor *, uint64_t sleep_ns);

void ajit_queue_push(struct ajit_queue *, struct ajit_ticket *);
void ajit_queue_push_front(struct ajit_queue *, struct ajit_ticket *);
struct ajit_ticket *ajit_queue_pop(struct ajit_queue *);

void ajit_ticket_drop(struct ajit_ticket *);
void ajit_ticket_settle(struct ajit_executor *, struct ajit_ticket *, int code);
void ajit_ticket_on_done(void *ticket);

void ajit_flight_add(struct ajit_executor *, struct ajit_ticket *);
void ajit_flight_retire(struct ajit_executor *);
void ajit_flight_sweep(struct ajit_executor *);
void ajit_flight_lose(struct ajit_executor *, int code);

void ajit_port_push(struct ajit_port *, struct ajit_note *, uint32_t flags);
void ajit_port_drop(struct ajit_port *);

void ajit_perform(struct ajit_executor *, struct ajit_ticket *);

struct ajit_resource *ajit_resource_make(struct ajit_executor *, struct ajit_ticket *, uint64_t kind);
void ajit_resource_unmake(struct ajit_executor *, struct ajit_ticket *);
int ajit_resource_alloc(struct ajit_executor *, struct ajit_ticket *, uint64_t kind, uint64_t size);
int ajit_resource_load(struct ajit_executor *, struct ajit_ticket *, const struct ajit_load *);
void ajit_resource_defer(struct ajit_executor *, struct ajit_resource *);
void ajit_resource_free_now(struct ajit_executor *, struct ajit_resource *);
bool ajit_resource_tidy(struct ajit_executor *, enum ajit_urgency);
void ajit_resource_close_port(struct ajit_executor *, struct ajit_port *);
void ajit_resource_end(struct ajit_executor *, bool driver_usable);

#endif
