/* Functions that the CPU driver exports beside the driver API, for tests and fault drills.
 *
 * None of them needs a context, and all may be called from any thread at any time.
 */
#ifndef AJIT_CPU_FAULT_H
#define AJIT_CPU_FAULT_H

/* A delay that lasts until `ajit_cpu_release_calls`. */
#define AJIT_CPU_UNTIL_RELEASED 0xffffffffu

#pragma GCC visibility push(default)

/* See fault.c for what may be named. `count` 0 takes an injection back. Returns a CUresult. */
int ajit_cpu_inject(const char *function, int error, unsigned count, unsigned delay_us);
/* Ends the delay of every call that is stopped now; one that comes later stops. */
void ajit_cpu_release_calls(void);
/* The next `count` host functions are never run, though their streams go on. */
void ajit_cpu_set_lost_callbacks(unsigned count);
/* The device is lost: every call that needs it returns `error`, until reset. */
void ajit_cpu_poison(int error);
/* While `hold` is not 0, no stream performs anything: work is "on the device" for as long as
 * wanted. */
void ajit_cpu_hold_streams(int hold);
/* Undoes all of the above. Streams, memory and modules stay as they are. */
void ajit_cpu_reset(void);

#pragma GCC visibility pop

#endif
