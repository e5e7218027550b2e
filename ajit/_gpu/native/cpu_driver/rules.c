/* The rules of the CUDA thread, checked at every entry in builds with AJIT_CPU_ASSERT_RULES.
 *
 * R1: no thread enters the driver with Python's GIL held. PyGILState_Check is looked up at run
 * time, so that no Python symbol is linked; a process without Python has no GIL. R2: a host
 * function is code of a library; a Python callable comes as a piece of memory that was made while
 * the program runs. One thread: where a test asks for it (AJIT_CPU_ONE_THREAD=1), the first thread
 * that needs a context is the only one that may until the context is destroyed; so a finalizer that
 * calls the driver (R3) is found on any other thread. R4 and R5 are about the executor's library
 * and not about calls: tests/gpu/test_executor.py. A broken rule ends the process: it is a fault of
 * the program, which must not go on.
 */
#include "driver.h"

#ifdef AJIT_CPU_ASSERT_RULES

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_once_t look_once = PTHREAD_ONCE_INIT;
static int (*holds_gil)(void);
static int (*is_python_running)(void);
static bool one_thread;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* of these two */
static pthread_t owner;
static bool owned;

static void find(const char *name, int (**function)(void)) {
    void *symbol = dlsym(RTLD_DEFAULT, name);
    memcpy(function, &symbol, sizeof symbol);
}

static void look(void) {
    find("PyGILState_Check", &holds_gil);
    find("Py_IsInitialized", &is_python_running);
    one_thread = cpu_setting("AJIT_CPU_ONE_THREAD", 0, 0, 1) == 1;
}

static _Noreturn void broken(const char *function, const char *rule) {
    fprintf(stderr, "ajit CPU driver: %s: %s\n", function, rule);
    abort();
}

static bool is_owner(void) {
    pthread_mutex_lock(&mutex);
    if (!owned) owner = pthread_self();
    owned = true;
    bool own = pthread_equal(owner, pthread_self());
    pthread_mutex_unlock(&mutex);
    return own;
}

void cpu_check_rules(const char *function, unsigned needs) {
    pthread_once(&look_once, look);
    if (holds_gil != NULL && is_python_running != NULL && is_python_running() && holds_gil())
        broken(function, "rule R1 is broken: the driver was entered with the GIL held");
    if (one_thread && (needs & CPU_CONTEXT) && !is_owner())
        broken(function, "the rule of one thread (R3) is broken: another thread owns the context");
}

void cpu_check_host_function(const char *function, CUhostFn host_function) {
    Dl_info info;
    void *address;
    memcpy(&address, &host_function, sizeof address);
    if (address != NULL && dladdr(address, &info) == 0)
        broken(function, "rule R2 is broken: the host function is no native code of a library");
}

void cpu_forget_owner(void) {
    pthread_mutex_lock(&mutex);
    owned = false;
    pthread_mutex_unlock(&mutex);
}

#else

void cpu_forget_owner(void) {}

void cpu_check_host_function(const char *function, CUhostFn host_function) {
    (void)function, (void)host_function;
}

void cpu_check_rules(const char *function, unsigned needs) { (void)function, (void)needs; }

#endif
