/* Ports: how finished tickets reach an event loop.
 *
 * Any thread pushes notes on a lock-free list; the loop's thread takes the whole list at once. The
 * eventfd is written only by the push that finds the list empty, so one wake-up carries everything
 * that finished meanwhile. While the loop's thread spins for a ticket it polls the list, and the
 * eventfd is not written at all: that saves a system call here and a turn of the loop there.
 */
#include "executor.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Marks the head of a list that is not read any more. */
static struct ajit_note CLOSED;

/* After how many waits that did not spin, because tickets have been slow, one spins anyway.
 * Arbitrary. */
enum { TRY_AFTER = 16 };
/* How many times `hog_ns` tasks may look without others having a turn, where a turn costs
 * milliseconds. */
enum { HOGS_WHERE_LATE = 5 };
/* Shares of tickets. A look is worth while if it finds every second one; and, where parking costs
 * many times what a look does, every eighth. */
enum { EVERY = 1 << 16, EVERY_SECOND = EVERY / 2, EVERY_EIGHTH = EVERY / 8 };

struct ajit_port *ajit_port_create(struct ajit_executor *executor, uint64_t spin_ns,
                                   uint64_t hog_ns) {
    struct ajit_port *port = calloc(1, sizeof *port);
    if (!port) return NULL;
    port->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (port->event_fd < 0) {
        free(port);
        return NULL;
    }
    port->executor = executor;
    port->spin_ns = spin_ns;
    port->hog_ns = hog_ns;
    port->quick = EVERY;
    atomic_init(&port->references, 1);
    return port;
}

void ajit_port_drop(struct ajit_port *port) {
    if (atomic_fetch_sub(&port->references, 1) == 1) {
        close(port->event_fd);
        free(port);
    }
}

/* A note that is not needed any more. */
static void discard(struct ajit_note *note) {
    struct ajit_ticket *ticket = note->ticket;
    if (note->flags & AJIT_STEPPED) free((struct ajit_step *)note);
    ajit_ticket_drop(ticket);
}

void ajit_port_push(struct ajit_port *port, struct ajit_note *note, uint32_t flags) {
    note->flags = flags;
    struct ajit_note *head = atomic_load(&port->head);
    do {
        if (head == &CLOSED) {
            discard(note);
            return;
        }
        note->next = head;
    } while (!atomic_compare_exchange_weak(&port->head, &head, note));
    /* From here on the loop may take the note, and the port may go: see ajit_ticket_settle for the
     * reference that keeps it. */
    if (!head && !atomic_load(&port->spinning)) {
        uint64_t one = 1;
        /* EAGAIN means that the counter is at its limit: the descriptor is readable already. */
        ssize_t written = write(port->event_fd, &one, sizeof one);
        (void)written;
    }
}

/* Takes the list and puts it, oldest first, behind what is pending. */
static void take(struct ajit_port *port) {
    struct ajit_note *newest = atomic_exchange(&port->head, NULL), *oldest = NULL;
    while (newest) {
        struct ajit_note *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    struct ajit_note **end = &port->pending;
    while (*end) end = &(*end)->next;
    *end = oldest;
}

/* An exponential average over about eight samples. */
static void mix(uint64_t *average, uint64_t sample) { *average += (sample >> 3) - (*average >> 3); }

/* What parking costs: from the end of a ticket until the loop, which was asleep, has it. Capped, so
 * that it is soon forgotten. */
static void learn_lateness(struct ajit_port *port) {
    const struct ajit_note *note = port->pending;
    if (!note || !(note->flags & AJIT_SETTLED)) return;
    uint64_t late_ns = ajit_now_ns() - atomic_load(&note->ticket->finished_ns);
    mix(&port->late_ns, late_ns < 4 * port->hog_ns ? late_ns : 4 * port->hog_ns);
}

static bool parking_costs_much(const struct ajit_port *port) {
    return port->late_ns > port->spin_ns;
}

/* For how long to look. Beside a busy Python thread a task that parks comes back up to 5 ms late,
 * for that thread has the GIL: then a longer look is the lesser evil, for the loop's other tasks as
 * well. */
static uint64_t look_ns(const struct ajit_port *port) {
    return parking_costs_much(port) ? port->hog_ns : port->spin_ns;
}

static void write_step(struct ajit_note *note, struct ajit_record *record) {
    const struct ajit_step *step = (const struct ajit_step *)note;
    *record = (struct ajit_record){
        .number = note->ticket->number,
        .flags = note->flags,
        .detail = step->index,
        .nanoseconds = step->finished_ns - note->ticket->submitted_ns,
    };
    discard(note);
}

static bool write_record(struct ajit_port *port, struct ajit_note *note,
                         struct ajit_record *record) {
    struct ajit_ticket *ticket = note->ticket;
    bool wanted = ticket->number == port->wanted && note->flags & (AJIT_SETTLED | AJIT_STEPPED);
    if (note->flags & AJIT_STEPPED) {
        write_step(note, record);
        return wanted;
    }
    *record = (struct ajit_record){
        .number = ticket->number,
        .code = note->flags & AJIT_EXPIRED ? 0 : ticket->code,
        .flags = note->flags,
        .value = note->flags & AJIT_EXPIRED ? 0 : (uint64_t)(uintptr_t)ticket->made,
        .detail = ticket->detail,
        .nanoseconds = atomic_load(&ticket->finished_ns) - ticket->submitted_ns,
    };
    if (note->flags & AJIT_SETTLED)
        mix(&port->quick, record->nanoseconds <= look_ns(port) ? EVERY : 0);
    ajit_ticket_drop(ticket);
    return wanted;
}

/* Moves pending notes into the records, behind the `count` that are there. */
static uint32_t hand_over(struct ajit_port *port, uint32_t count, bool *found) {
    while (port->pending && count < AJIT_RECORDS) {
        struct ajit_note *note = port->pending;
        port->pending = note->next;
        if (write_record(port, note, &port->records[count++])) *found = true;
    }
    return count;
}

/* Called when the eventfd is readable. Returns how many records there are; when they are
 * AJIT_RECORDS, there may be more: call again. */
uint32_t ajit_port_drain(struct ajit_port *port) {
    uint64_t ignored;
    bool found = false;
    /* Before taking the list: a push after it writes the eventfd anew. EAGAIN: nothing to reset. */
    ssize_t got = read(port->event_fd, &ignored, sizeof ignored);
    (void)got;
    take(port);
    learn_lateness(port);
    return hand_over(port, 0, &found);
}

/* For how long tasks may look before others have a turn. */
static uint64_t most_ns(const struct ajit_port *port) {
    return parking_costs_much(port) ? HOGS_WHERE_LATE * port->hog_ns : port->hog_ns;
}

/* Tickets are slow when the driver's threads sleep, and those sleep when nothing keeps them busy:
 * beside a busy Python thread, tickets would stay slow for ever without a try now and then. */
static bool worth_spinning(struct ajit_port *port) {
    if (!port->spin_ns || !port->wanted || port->hogged_ns >= most_ns(port)) return false;
    uint64_t wanted = parking_costs_much(port) ? EVERY_EIGHTH : EVERY_SECOND;
    if (port->quick < wanted && ++port->skipped < TRY_AFTER) return false;
    port->skipped = 0;
    return true;
}

static uint32_t spin(struct ajit_port *port, bool *found) {
    uint32_t count = 0;
    uint64_t began = ajit_now_ns(), now = began, limit = look_ns(port);
    while (!*found && count < AJIT_RECORDS && now - began < limit) {
        if (atomic_load_explicit(&port->head, memory_order_relaxed)) {
            take(port);
            count = hand_over(port, count, found);
        } else {
            sched_yield(); /* to the thread that is about to finish it, where cores are few */
        }
        now = ajit_now_ns();
    }
    port->hogged_ns += now - began;
    return count;
}

/* Called by a task that is about to wait for the ticket `wanted`. Spins until that one is settled,
 * at most for `look_ns`; hardly ever when tickets have been taking longer, and not at all when
 * other tasks have not had a turn for long. Returns like drain. */
uint32_t ajit_port_wait(struct ajit_port *port) {
    bool found = false;
    uint32_t count = 0;
    atomic_store(&port->spinning, 1);
    if (worth_spinning(port)) count = spin(port, &found);
    atomic_store(&port->spinning, 0);
    /* A thread that pushed while this one spun wrote no eventfd, so its note is taken here. */
    take(port);
    return hand_over(port, count, &found);
}

/* The owner leaves: notes from now on are dropped where they are pushed. */
void ajit_port_release(struct ajit_port *port) {
    struct ajit_note *note = atomic_exchange(&port->head, &CLOSED);
    struct ajit_note *lists[] = {note, port->pending};
    port->pending = NULL;
    for (int i = 0; i < 2; i++) {
        for (note = lists[i]; note;) {
            struct ajit_note *next = note->next;
            discard(note);
            note = next;
        }
    }
    ajit_port_drop(port);
}
