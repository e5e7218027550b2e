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
 *   R4  No lock is held while waiting for the GIL: the only lock here is the watchdog's, which only
 *       native threads take.
 *   R5  No Python symbol in here.
 *
 * Who owns what. A `ticket` is one submission: it is made by the submitting thread, put on the
 * ring, performed by the CUDA thread, finished by the host function, and told to the event loop
 * through its `port`. A `resource` is memory or a module; only the CUDA thread touches its driver
 * handle; Python holds its address, and gives it back exactly once. The executor itself goes with
 * the last of its users: Python's object for it, and every resource that was not given back. The
 * garbage collector finalizes what it finds in one piece in any order, that object before a module
 * too.
 */
#ifndef AJIT_EXECUTOR_H
#define AJIT_EXECUTOR_H

#include <pthread.h>

#include "parts.h"

#define AJIT_API __attribute__((visibility("default")))

/* --- the executor ---------------------------------------------------------------------------- */

struct ajit_slot { /* of the ring, see ring.c */
    _Atomic uint64_t turn;
    struct ajit_ticket *ticket;
};

struct ajit_queue { /* first in, first out; the CUDA thread only */
    struct ajit_ticket *first, *last;
};

struct ajit_free_list { /* oldest first */
    struct ajit_resource *first, **end;
};

struct ajit_lane { /* the tickets in flight of one stream, oldest first; see flight.c */
    struct ajit_queue flight;
    bool taken;
};

struct ajit_pieces { /* copies that are handed to the driver at once, see pieces.c */
    CUdeviceptr targets[AJIT_PIECES], sources[AJIT_PIECES];
    size_t sizes[AJIT_PIECES];
    uint64_t count;
};

struct ajit_known_piece { uint64_t start, end; };

struct ajit_known { /* host memory of others that the driver knows, by address; see known.c */
    struct ajit_known_piece *pieces;
    uint64_t count, room;
    uint64_t low, high; /* what was looked at last: no piece begins or ends between these */
};

struct ajit_executor {
    struct ajit_driver driver;
    struct ajit_options options;
    struct ajit_device_info info;
    struct ajit_counters counters;
    char library[512], error[512];
    CUdevice device;
    CUcontext context;
    CUstream stream, capture_stream, memory_stream;
    CUmemoryPool pool; /* NULL: memory is allocated without one, see pool.c */
    uint64_t memory_lane;
    bool pool_trimmed; /* since memory was last taken or given back */
    CUevent join_event;
    struct ajit_heartbeat *heartbeat;
    int heartbeat_fd; /* -1: the heartbeat is in memory of this process only */
    pthread_t watchdog;
    pthread_mutex_t watchdog_lock; /* guards the two below; never held in a call of the driver */
    pthread_cond_t watchdog_wakes;
    bool watchdog_runs, watchdog_ends;
    _Atomic int lost; /* the sticky code, or 0 */
    _Atomic int stopped;
    _Atomic int users; /* Python's object, and one for each resource that it has not given back */
    _Atomic int submitting; /* threads inside ajit_submit or ajit_timer_hand_over */
    /* The ring. */
    struct ajit_slot *slots;
    alignas(64) _Atomic uint64_t tail; /* producers */
    alignas(64) _Atomic uint64_t head; /* the CUDA thread */
    alignas(64) _Atomic uint32_t asleep;
    _Atomic(struct ajit_resource *) posts;
    _Atomic(struct ajit_ticket *) timed; /* done, and not asked yet how long they took */
    /* Below: the CUDA thread only. */
    struct ajit_queue service;     /* the second lane */
    struct ajit_queue starving[2]; /* of it, what waits for device memory, and for host memory */
    bool starving_turn;            /* which of the two is tried next */
    bool starved; /* there was no memory since the last look after what is in flight */
    struct ajit_lane lanes[AJIT_LANES];
    uint64_t busy_lanes;        /* bit i: lane i has tickets in flight */
    struct ajit_resource *held; /* posts taken, waiting for the ring to pass `held_until` */
    uint64_t held_until;
    struct ajit_free_list pooled, awaited; /* to be freed: without a wait, and after one */
    uint64_t awaited_bytes;                /* device memory in the second of the two */
    uint64_t fenced_ns; /* what was given back before needs no wait for the device any more */
    struct ajit_resource resources; /* list head of all that the driver has */
    struct ajit_ticket *call;       /* the AJIT_CALL that Python runs now */
    uint64_t next_sequence;
    uint64_t swept_ns, unlooked;
    uint64_t turn_ns;           /* when the second lane may go before work */
    struct ajit_timer *timers;  /* that are not in use */
    struct ajit_pieces *pieces; /* room for many copies; NULL before the first */
    struct ajit_known known;
    uint64_t load_began_ns, load_ended_ns; /* the last one */
    bool stopping;                         /* nothing waits any more */
};

/* Called through PyDLL: memory only, never the driver, never a wait that is not bounded. */
AJIT_API struct ajit_executor *ajit_executor_create(const char *library,
                                                    const struct ajit_options *);
AJIT_API void ajit_executor_destroy(struct ajit_executor *);
AJIT_API int ajit_submit(const struct ajit_submission *);
AJIT_API void ajit_post(struct ajit_executor *, struct ajit_resource *, uint64_t lanes);
AJIT_API struct ajit_port *ajit_port_create(struct ajit_executor *, uint64_t spin_ns,
                                            uint64_t hog_ns);
AJIT_API void ajit_port_release(struct ajit_port *);
AJIT_API uint32_t ajit_port_drain(struct ajit_port *);
AJIT_API uint32_t ajit_port_wait(struct ajit_port *);
AJIT_API void *ajit_host_make(uint64_t bytes);
AJIT_API void ajit_host_release(void *bytes);
AJIT_API void *ajit_host_tensor_make(void *host, uint64_t address, const struct ajit_tensor_type *,
                                     const int64_t *sizes);
AJIT_API void *ajit_tensor_make(struct ajit_executor *, struct ajit_resource *, uint64_t address,
                                const struct ajit_tensor_type *, const int64_t *sizes);
AJIT_API void *ajit_tensor_destructor(void *is_valid, void *pointer);
AJIT_API const struct ajit_fact *ajit_table(uint64_t *count);
AJIT_API int ajit_table_ids(int32_t *out, const struct ajit_column *, uint64_t count,
                            uint64_t limit, int unique, uint64_t *at);
AJIT_API int ajit_table_copies(uint64_t *out, const struct ajit_ranges *, uint64_t *at);

/* Called through CDLL, by the CUDA thread only. */
AJIT_API int ajit_serve_begin(struct ajit_executor *, const char *thread_name);
AJIT_API int ajit_serve(struct ajit_executor *, uint64_t *number);
AJIT_API void ajit_serve_called(struct ajit_executor *, int code);
AJIT_API int ajit_serve_end(struct ajit_executor *);

/* Inside. */
uint64_t ajit_now_ns(void);
void ajit_device_close(struct ajit_executor *);
void ajit_executor_leave(struct ajit_executor *);

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
void ajit_ticket_finish(struct ajit_ticket *, uint64_t now, uint32_t flags);
bool ajit_ticket_retired(struct ajit_ticket *);
void ajit_ticket_expire(struct ajit_executor *, struct ajit_ticket *, uint64_t now);
int ajit_ticket_step(struct ajit_executor *, struct ajit_ticket *, uint64_t index);

void ajit_flight_add(struct ajit_executor *, struct ajit_ticket *);
void ajit_flight_retire(struct ajit_executor *);
int ajit_flight_refuses(struct ajit_executor *, CUstream);
void ajit_flight_sweep(struct ajit_executor *);
int ajit_flight_judge(struct ajit_executor *, int code);
void ajit_flight_lose(struct ajit_executor *, int code);
bool ajit_flight_uses(const struct ajit_executor *, const struct ajit_resource *);
int ajit_flight_count(const struct ajit_executor *);
uint64_t ajit_lane_take(struct ajit_executor *);
void ajit_lane_leave(struct ajit_executor *, uint64_t lane);

int ajit_timer_begin(struct ajit_executor *, struct ajit_ticket *);
void ajit_timer_end(struct ajit_executor *, struct ajit_ticket *);
void ajit_timer_hand_over(struct ajit_executor *, struct ajit_ticket *);
void ajit_timer_collect(struct ajit_executor *);
void ajit_timer_leave(struct ajit_executor *, struct ajit_ticket *);
void ajit_timer_close(struct ajit_executor *, bool driver_usable);

void ajit_port_push(struct ajit_port *, struct ajit_note *, uint32_t flags);
void ajit_port_drop(struct ajit_port *);

bool ajit_second_lane_starves(const struct ajit_executor *);
void ajit_second_lane_leave(struct ajit_executor *, struct ajit_port *);
bool ajit_second_lane_is_ready(const struct ajit_executor *);
bool ajit_second_lane_has_turn(const struct ajit_executor *);
void ajit_second_lane_push(struct ajit_executor *, struct ajit_ticket *);
void ajit_second_lane_starve(struct ajit_executor *, struct ajit_ticket *);
void ajit_second_lane_serve(struct ajit_executor *);

void ajit_perform(struct ajit_executor *, struct ajit_ticket *);
int ajit_operate_all(struct ajit_executor *, struct ajit_ticket *, uint32_t first, bool *enqueued);
int ajit_copy(struct ajit_executor *, struct ajit_ticket *, const struct ajit_operation *,
              bool *enqueued);
int ajit_copy_pieces(struct ajit_executor *, CUstream, uint64_t count, CUdeviceptr *targets,
                     CUdeviceptr *sources, size_t *sizes, bool *enqueued);
int ajit_copy_pages(struct ajit_executor *, struct ajit_ticket *, const struct ajit_pages *,
                    bool *enqueued);

struct ajit_gathering { /* copies of one direction that are collected */
    struct ajit_executor *executor;
    CUstream stream;
    bool *enqueued;
    bool to_host; /* which side the host is */
    bool apart;   /* the next one begins anew, whatever is beside it */
};
int ajit_pieces_begin(struct ajit_gathering *);
int ajit_pieces_add(struct ajit_gathering *, uint64_t target, uint64_t source, uint64_t bytes);
int ajit_pieces_flush(struct ajit_gathering *);

int ajit_known_reserve(struct ajit_known *);
void ajit_known_add(struct ajit_known *, uint64_t start, uint64_t size);
void ajit_known_remove(struct ajit_known *, uint64_t start);
void ajit_known_free(struct ajit_known *);
uint64_t ajit_known_span(struct ajit_known *, uint64_t address, uint64_t bytes);
bool ajit_known_parts(struct ajit_known *, uint64_t address);
/* Whether a range is where was looked last, and no piece begins or ends in it or at its start. */
static inline bool ajit_known_within(const struct ajit_known *known, uint64_t address,
                                     uint64_t bytes) {
    return !known->count || (address > known->low && address + bytes <= known->high);
}

int ajit_launch_kernel(struct ajit_executor *, struct ajit_ticket *, const struct ajit_launch *);

int ajit_stream_make(struct ajit_executor *, struct ajit_ticket *, int64_t priority);
int ajit_stream_join(struct ajit_executor *, struct ajit_ticket *, uint64_t other);
int ajit_event_make(struct ajit_executor *, struct ajit_ticket *, uint64_t flags);
int ajit_event_elapsed(struct ajit_executor *, struct ajit_ticket *, const struct ajit_elapsed *);
int ajit_graph_make(struct ajit_executor *, struct ajit_ticket *);

int ajit_heartbeat_open(struct ajit_executor *);
void ajit_heartbeat_close(struct ajit_executor *);
void ajit_heartbeat_enter(struct ajit_executor *, uint32_t operation, uint64_t number);
void ajit_heartbeat_leave(struct ajit_executor *);
void ajit_watchdog_start(struct ajit_executor *);
void ajit_watchdog_end(struct ajit_executor *);

void ajit_pool_open(struct ajit_executor *);
void ajit_pool_close(struct ajit_executor *);
void ajit_pool_abandon(struct ajit_executor *);
bool ajit_pool_owes(struct ajit_executor *);
int ajit_pool_alloc(struct ajit_executor *, CUdeviceptr *, size_t size);
int ajit_pool_free(struct ajit_executor *, const struct ajit_resource *);
bool ajit_pool_shares(const struct ajit_resource *);
bool ajit_pool_awaits(const struct ajit_executor *, const struct ajit_resource *);
int ajit_pool_follow(struct ajit_executor *, struct ajit_ticket *, bool *enqueued);
void ajit_pool_give_back(struct ajit_executor *);
uint64_t ajit_pool_idle_ns(const struct ajit_executor *);

struct ajit_resource *ajit_resource_make(struct ajit_executor *, struct ajit_ticket *,
                                         uint64_t kind);
void ajit_resource_unmake(struct ajit_executor *, struct ajit_ticket *);
void ajit_resource_keep_back(struct ajit_executor *, struct ajit_resource *);
int ajit_resource_alloc(struct ajit_executor *, struct ajit_ticket *, uint64_t kind, uint64_t size,
                        bool *enqueued);
int ajit_resource_register(struct ajit_executor *, struct ajit_ticket *,
                           const struct ajit_region *);
int ajit_resource_load(struct ajit_executor *, struct ajit_ticket *, const struct ajit_load *);
void ajit_resource_defer(struct ajit_executor *, struct ajit_resource *);
void ajit_resource_free_now(struct ajit_executor *, struct ajit_resource *);
bool ajit_resource_waits(const struct ajit_executor *);
bool ajit_resource_tidy(struct ajit_executor *, enum ajit_urgency);
void ajit_resource_close_port(struct ajit_executor *, struct ajit_port *);
void ajit_resource_end(struct ajit_executor *, bool driver_usable);

#endif
