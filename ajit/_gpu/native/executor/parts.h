/* What the executor works with: resources, tickets and the ports that they go back through.
 *
 * Who owns what stands in executor.h.
 */
#ifndef AJIT_EXECUTOR_PARTS_H
#define AJIT_EXECUTOR_PARTS_H

#include <stdalign.h>
#include <stdbool.h>

#include "wire.h"

/* --- resources ------------------------------------------------------------------------------- */

/* What a free may do to the work that is going on: cuMemFree can wait for the device. */
enum ajit_urgency {
    AJIT_WHEN_IDLE, /* nothing may be in flight, or it has waited for long */
    AJIT_WHEN_SAFE, /* nothing in flight may be using it */
    AJIT_AT_ONCE,   /* the thread ends */
};

enum ajit_resource_kind {
    AJIT_MEMORY = 1,
    AJIT_HOST_MEMORY = 2,
    AJIT_MODULE = 3,
    AJIT_REGISTERED = 4, /* host memory of others */
    AJIT_STREAM = 5,
    AJIT_EVENT = 6,
    AJIT_GRAPH = 7,
};

struct ajit_resource {
    uint64_t kind;
    uint64_t pointer; /* device or host address, or the driver's handle */
    uint64_t size;    /* bytes; for a module the number of functions, for a stream its lane; 0 for
                       * host memory that another context has registered */
    struct ajit_function *functions;
    _Atomic uint64_t *ended; /* of registered memory: set when it is registered no more */
    /* What stands below belongs to the CUDA thread, save `posted`, the link of the post box. */
    struct ajit_port *port;
    struct ajit_resource *previous, *next;
    struct ajit_resource *posted;
    struct ajit_resource *behind; /* in the list of those to be freed; only if `deferred` */
    uint64_t after; /* dispatch number up to which tickets must have retired before this is freed */
    _Atomic uint64_t lanes; /* bit i: tickets of lane i may be using it */
    _Atomic int holds;      /* Python's, and one of each tensor; the last one to go posts it */
    uint64_t deferred_ns;
    bool alive;    /* the driver still has it */
    bool released; /* Python has given it back: free the record too */
    bool deferred;
    bool awaited; /* of one that is deferred: in which of the two lists */
};

/* --- tickets --------------------------------------------------------------------------------- */

enum ajit_state {
    AJIT_IN_FLIGHT,
    AJIT_FINISHED,      /* settled and retired */
    AJIT_OVERDUE,       /* settled by its deadline, not retired */
    AJIT_OVERDUE_ENDED, /* settled by its deadline, and retired later */
};

struct ajit_ticket;
struct ajit_timer;

struct ajit_note { /* one message to an event loop */
    struct ajit_note *next;
    struct ajit_ticket *ticket;
    uint32_t flags;
};

struct ajit_step { /* its note is the first member, and it is freed when that was read */
    struct ajit_note note;
    uint64_t index, finished_ns;
};

struct ajit_ticket {
    struct ajit_note settled, retired;
    struct ajit_ticket *next; /* in a queue of the CUDA thread */
    struct ajit_port *port;
    struct ajit_resource *made;
    uint64_t number;
    uint64_t sequence; /* dispatch number */
    CUstream stream;
    uint64_t lane, deadline_ns;
    struct ajit_timer *timer; /* the CUDA thread only */
    struct ajit_ticket *next_timed;
    uint64_t done_ns; /* of one that is timed: when its host function ran */
    uint64_t detail;
    uint64_t submitted_ns;
    _Atomic uint64_t finished_ns; /* the host function and the deadline may write at once */
    int32_t code;
    uint32_t count, bytes;
    bool has_callback;
    bool timed;
    _Atomic int state;
    _Atomic int references;
    alignas(16) unsigned char operations[];
};

/* --- ports: the way to one event loop --------------------------------------------------------- */

struct ajit_port {
    _Atomic(struct ajit_note *) head; /* newest first; AJIT_PORT_CLOSED when no loop reads it */
    _Atomic int spinning;             /* the loop's thread looks at `head` by itself */
    _Atomic int references;           /* the owner and every ticket */
    int event_fd;
    struct ajit_executor *executor;
    /* Below: the loop's thread only. */
    struct ajit_note *pending; /* taken from `head`, oldest first, not handed over yet */
    uint64_t wanted;           /* the ticket that `ajit_port_wait` spins for, or 0; set by Python */
    uint64_t hogged_ns;        /* spun since other tasks had a turn; Python sets it to 0 */
    uint64_t spin_ns, hog_ns;  /* limits of one wait, and of all since the last turn */
    uint64_t quick;            /* share of recent tickets that a look would have found */
    uint64_t late_ns;          /* recent time from completion to a loop that had parked */
    uint32_t skipped;          /* waits since the last that spun */
    struct ajit_record records[AJIT_RECORDS];
};

#endif
