/* Several threads submit, wait, give memory back and leave while one thread serves: for the
 * sanitizers. */
#include "executor_stress.h"

enum { BURST = 40 };

static void one_round(struct ajit_port *port, int round) {
    int open = 1;
    struct ajit_resource *memory = finish(port, &open, submit_simple(port, AJIT_ALLOC, 4096));
    if (!memory) {
        failures++;
        return;
    }
    struct ajit_fill fill = {{AJIT_FILL, sizeof fill}, memory->pointer, 4096, 7};
    for (int i = 0; i < BURST; i++) submit(port, &fill, sizeof fill);
    submit_simple(port, AJIT_CALL, 0);
    ajit_post(executor, memory, ~(uint64_t)0); /* while the fills are in flight */
    uint64_t last = submit_simple(port, AJIT_MARK, 0);
    open = BURST + 2;
    finish(port, &open, round % 2 ? last : 0);
}

static void *work(void *argument) {
    (void)argument;
    for (int round = 0; round < rounds; round++) {
        struct ajit_port *port = ajit_port_create(executor, 50000, 1000000);
        one_round(port, round);
        int open = 1;
        submit_simple(port, AJIT_CLOSE_PORT, 0);
        if (round % 3) finish(port, &open, 0);
        ajit_port_release(port); /* sometimes with a ticket on its way */
    }
    return NULL;
}

int main(int count, char **arguments) { return stress(count, arguments, work); }
