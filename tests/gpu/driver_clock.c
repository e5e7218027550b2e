/* The executor's clock in tests of turns: only calls of the driver move it, see driver_clock.py.
 *
 * It begins long after the real one, so that the watchdog, which waits by the real one, sleeps.
 */
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

enum { NS = 1000 * 1000 * 1000 };
static _Atomic uint64_t now_ns = (uint64_t)1 << 60;

int driver_clock_gettime(clockid_t clock, struct timespec *now) {
    (void)clock;
    uint64_t ns = atomic_load(&now_ns);
    *now = (struct timespec){(time_t)(ns / NS), (long)(ns % NS)};
    return 0;
}

__attribute__((visibility("default"))) void driver_clock_advance(uint64_t ns) {
    atomic_fetch_add(&now_ns, ns);
}
