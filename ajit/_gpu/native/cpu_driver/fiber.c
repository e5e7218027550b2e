/* Fibers: stacks with a guard page below, and the switch between them.
 *
 * A switch saves what the C calling convention makes the callee keep, and nothing else: all fibers
 * of a thread share its floating-point modes, and a switch is always a function call. It costs a
 * few nanoseconds, where swapcontext() makes a system call for the signal mask. Stacks belong to
 * the OS thread that made them, are used again last in, first out while they are warm, and go when
 * their thread ends.
 */
#include "driver.h"
#include "watch.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const uint64_t DEFAULT_STACK_BYTES = 64 << 10;
enum { HEADER_BYTES = 128 };

struct cpu_stack { /* lies at the top of its own stack */
    cpu_stack *next;
    char *mapping;
    size_t mapping_bytes;
#ifdef AJIT_CPU_WATCHED
    cpu_watch watch;
    cpu_stack *other; /* in the list of all stacks of the thread */
    void (*entry)(void *);
    void *argument;
#endif
};

static pthread_key_t key;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static _Thread_local cpu_stack *unused;
#ifdef AJIT_CPU_WATCHED
static _Thread_local cpu_stack *all;
static _Thread_local cpu_watch home;
static _Thread_local cpu_watch *here;
#endif
static uint64_t stack_bytes, page_bytes;

/* ---- stacks ---- */

static void delete_stacks(void *ignored) {
    (void)ignored;
    while (unused != NULL) {
        cpu_stack *stack = unused;
        unused = stack->next;
#ifdef AJIT_CPU_WATCHED
        cpu_watch_end(&stack->watch);
#endif
        munmap(stack->mapping, stack->mapping_bytes);
    }
}

static void prepare(void) {
    page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t wanted = cpu_setting("AJIT_CPU_STACK_BYTES", DEFAULT_STACK_BYTES, 16 << 10, 1 << 30);
    stack_bytes = (wanted + page_bytes - 1) / page_bytes * page_bytes;
    pthread_key_create(&key, delete_stacks);
}

static cpu_stack *new_stack(void) {
    pthread_once(&key_once, prepare);
    size_t bytes = stack_bytes + page_bytes;
    char *mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (mapping == MAP_FAILED) return NULL;
    if (mprotect(mapping, page_bytes, PROT_NONE) != 0) {
        munmap(mapping, bytes);
        return NULL;
    }
    pthread_setspecific(key, mapping); /* any value: it makes the destructor run */
    cpu_stack *stack = (cpu_stack *)(mapping + bytes - HEADER_BYTES);
    *stack = (cpu_stack){.mapping = mapping, .mapping_bytes = bytes};
#ifdef AJIT_CPU_WATCHED
    stack->watch.bottom = mapping + page_bytes;
    stack->watch.bytes = (size_t)((char *)stack - mapping) - page_bytes;
    stack->other = all;
    all = stack;
#endif
    return stack;
}

cpu_stack *cpu_stack_take(void) {
    cpu_stack *stack = unused;
    if (stack == NULL) return new_stack();
    unused = stack->next;
    return stack;
}

void cpu_stack_give(cpu_stack *stack) {
    stack->next = unused;
    unused = stack;
}

/* ---- the switch ---- */

#ifdef AJIT_CPU_WATCHED

#define SWITCH "cpu_fiber_switch_unwatched"
void cpu_fiber_switch_unwatched(void **from, void *to) __attribute__((visibility("hidden")));

/* The stack that `context` lies on: contexts are no more than stack pointers. */
static cpu_watch *watch_of(const void *context) {
    for (cpu_stack *stack = all; stack != NULL; stack = stack->other)
        if ((uintptr_t)context - (uintptr_t)stack->mapping < stack->mapping_bytes)
            return &stack->watch;
    return &home;
}

/* Not instrumented: its entry and exit would be counted on different stacks. */
__attribute__((no_sanitize("thread", "address"))) void cpu_fiber_switch(void **from, void *to) {
    cpu_watch *own = here != NULL ? here : &home;
    here = watch_of(to);
    cpu_watch_leave(own, here);
    cpu_fiber_switch_unwatched(from, to);
    cpu_watch_arrive(own, &home);
}

static __attribute__((no_sanitize("thread", "address"))) void begin_watched(void *argument) {
    cpu_stack *stack = argument;
    cpu_watch_arrive(&stack->watch, &home);
    stack->entry(stack->argument);
}

#else
#define SWITCH "cpu_fiber_switch"
#endif

#if defined(__x86_64__)

__asm__(".text\n.p2align 4\n"
        ".globl " SWITCH "\n.hidden " SWITCH "\n"
        ".type " SWITCH ", @function\n" SWITCH ":\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size " SWITCH ", . - " SWITCH "\n"
        ".type cpu_fiber_begin, @function\n"
        "cpu_fiber_begin:\n"
        "  movq %r13, %rdi\n"
        "  callq *%r12\n"
        "  ud2\n"
        ".size cpu_fiber_begin, . - cpu_fiber_begin\n"
        ".section .note.GNU-stack, \"\", @progbits\n.text\n");

enum { SAVED_WORDS = 7, ARGUMENT_WORD = 2, ENTRY_WORD = 3, RETURN_WORD = 6 };

#elif defined(__aarch64__)

__asm__(".text\n.p2align 4\n"
        ".globl " SWITCH "\n.hidden " SWITCH "\n"
        ".type " SWITCH ", %function\n" SWITCH ":\n"
        "  sub sp, sp, #160\n"
        "  stp x19, x20, [sp, #0]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n"
        "  stp x25, x26, [sp, #48]\n  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n"
        "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n  stp d12, d13, [sp, #128]\n"
        "  stp d14, d15, [sp, #144]\n"
        "  mov x9, sp\n  str x9, [x0]\n  mov sp, x1\n"
        "  ldp x19, x20, [sp, #0]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n"
        "  ldp x25, x26, [sp, #48]\n  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
        "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n  ldp d12, d13, [sp, #128]\n"
        "  ldp d14, d15, [sp, #144]\n"
        "  add sp, sp, #160\n  ret\n"
        ".size " SWITCH ", . - " SWITCH "\n"
        ".type cpu_fiber_begin, %function\n"
        "cpu_fiber_begin:\n"
        "  mov x0, x19\n  blr x20\n  brk #1\n"
        ".size cpu_fiber_begin, . - cpu_fiber_begin\n"
        ".section .note.GNU-stack, \"\", %progbits\n.text\n");

enum { SAVED_WORDS = 20, ARGUMENT_WORD = 0, ENTRY_WORD = 1, RETURN_WORD = 11 };

#endif

#if defined(__x86_64__) || defined(__aarch64__)

void cpu_fiber_begin(void) __attribute__((visibility("hidden")));

void *cpu_fiber_new(cpu_stack *stack, void (*entry)(void *), void *argument) {
#ifdef AJIT_CPU_WATCHED
    cpu_watch_begin(&stack->watch);
    stack->entry = entry;
    stack->argument = argument;
    entry = begin_watched;
    argument = stack;
#endif
    uintptr_t *top = (uintptr_t *)((uintptr_t)stack & ~(uintptr_t)15);
    uintptr_t *frame = top - SAVED_WORDS; /* so that the stack is aligned in cpu_fiber_begin */
    memset(frame, 0, SAVED_WORDS * sizeof *frame);
    frame[ARGUMENT_WORD] = (uintptr_t)argument;
    frame[ENTRY_WORD] = (uintptr_t)entry;
    frame[RETURN_WORD] = (uintptr_t)cpu_fiber_begin;
    return frame;
}

#endif
