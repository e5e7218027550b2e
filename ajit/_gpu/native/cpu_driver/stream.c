/* Streams: each has a queue of operations and a thread that performs them in order.
 *
 * The thread is started by the first operation and ends when the stream is closed and its queue is
 * empty; it owns one reference to the stream until then, so closing never waits. An operation that
 * was accepted is dropped exactly once, whether it ran or not. When the device is lost, operations
 * are dropped without running, except those marked `always` (fences, frees), so that no thread
 * waits for ever.
 */
#include "driver.h"

#include <sched.h>
#include <stdlib.h>

static const uint64_t MAGIC = 0x616a69742d737472; /* "ajit-str" */
enum { THREAD_STACK_BYTES = 256 << 10 };          /* kernels run on fibers; this runs the rest */
enum { LINGER_NS = 50 * 1000 };

static void *serve(void *argument);

/* ---- life ---- */

CUresult cpu_stream_new(CUcontext context, unsigned flags, int priority, CUstream *result) {
    static uint64_t ids;
    CUstream stream = calloc(1, sizeof *stream);
    if (stream == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    stream->magic = MAGIC;
    stream->context = context;
    stream->flags = flags;
    stream->priority = priority;
    stream->id = ++ids;
    atomic_init(&stream->refs, 1);
    pthread_mutex_init(&stream->mutex, NULL);
    pthread_cond_init(&stream->work, NULL);
    pthread_cond_init(&stream->idle, NULL);
    stream->next = context->streams;
    context->streams = stream;
    *result = stream;
    return CUDA_SUCCESS;
}

CUstream cpu_stream_share(CUstream stream) {
    atomic_fetch_add(&stream->refs, 1);
    return stream;
}

void cpu_stream_drop(CUstream stream) {
    if (atomic_fetch_sub(&stream->refs, 1) != 1) return;
    pthread_cond_destroy(&stream->idle);
    pthread_cond_destroy(&stream->work);
    pthread_mutex_destroy(&stream->mutex);
    free(stream);
}

/* Takes the stream out of its context's list, if it is still there. */
static void unlist(CUstream stream) {
    for (CUstream *link = &stream->context->streams; *link != NULL; link = &(*link)->next)
        if (*link == stream) {
            *link = stream->next;
            return;
        }
}

/* Stays in the list while it has work: who waits for the context waits for that, too. */
void cpu_stream_close(CUstream stream) {
    if (stream->magic != MAGIC) return; /* closed already, and at its last work */
    cpu_capture_abandon(stream);
    stream->magic = 0;
    pthread_mutex_lock(&stream->mutex);
    stream->closing = true;
    bool started = stream->started;
    pthread_cond_signal(&stream->work);
    pthread_mutex_unlock(&stream->mutex);
    if (!started) unlist(stream);
    cpu_stream_drop(stream);
}

/* Streams that a reset took from programs which still have their handles. Never freed: resets are
 * rare, and a handle that is looked at must be told from a valid one. */
static CUstream buried;

static void bury_stream(CUstream stream) {
    stream->next = buried;
    buried = stream;
}

void cpu_streams_close_all(CUcontext context, bool bury) {
    while (context->streams != NULL) {
        CUstream stream = cpu_stream_share(context->streams);
        cpu_stream_close(stream);
        unlist(stream);
        if (bury) bury_stream(stream);
        else cpu_stream_drop(stream);
    }
}

CUresult cpu_stream_find(CUstream handle, CUstream *stream) {
    CUcontext context = cpu_current();
    if (handle == NULL || handle == CU_STREAM_LEGACY) *stream = context->legacy;
    else if (handle == CU_STREAM_PER_THREAD) *stream = context->per_thread;
    else if (handle->magic == MAGIC) *stream = handle;
    else return CUDA_ERROR_INVALID_HANDLE;
    return CUDA_SUCCESS;
}

/* ---- the queue ---- */

static CUresult start_thread(CUstream stream) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int failed = pthread_create(&thread, &attributes, serve, cpu_stream_share(stream));
    pthread_attr_destroy(&attributes);
    if (failed) cpu_stream_drop(stream);
    stream->started = !failed;
    return failed ? CUDA_ERROR_OPERATING_SYSTEM : CUDA_SUCCESS;
}

static CUresult append(CUstream stream, cpu_op *op) {
    pthread_mutex_lock(&stream->mutex);
    CUresult result = stream->started ? CUDA_SUCCESS : start_thread(stream);
    if (result == CUDA_SUCCESS) {
        if (stream->tail != NULL) stream->tail->next = op;
        else stream->head = op;
        stream->tail = op;
        stream->submitted++;
        pthread_cond_signal(&stream->work);
    }
    pthread_mutex_unlock(&stream->mutex);
    if (result != CUDA_SUCCESS) op->drop(op);
    return result;
}

/* Looks for the next operation for a while before the thread sleeps: a hardware stream has no
 * thread to wake, and waking one costs tens of microseconds. Others get the core meanwhile. */
static void linger(CUstream stream) {
    uint64_t until = cpu_now_ns() + LINGER_NS;
    while (atomic_load(&stream->submitted) == stream->done && cpu_now_ns() < until) sched_yield();
}

/* The oldest operation, once there is one and streams are not held; NULL when it is time to end. */
static cpu_op *take(CUstream stream) {
    linger(stream);
    pthread_mutex_lock(&stream->mutex);
    while (stream->head == NULL && !stream->closing)
        pthread_cond_wait(&stream->work, &stream->mutex);
    bool empty = stream->head == NULL;
    pthread_mutex_unlock(&stream->mutex);
    if (empty) return NULL;
    cpu_wait_while_held();
    pthread_mutex_lock(&stream->mutex); /* only this thread takes: the head is still there */
    cpu_op *op = stream->head;
    stream->head = op->next;
    if (stream->head == NULL) stream->tail = NULL;
    pthread_mutex_unlock(&stream->mutex);
    return op;
}

/* In one step for every observer: an event that has happened while its stream is still busy with
 * it, or a stream that is done before its event has happened, is what no GPU shows. */
static void finish(CUstream stream, cpu_fence *signals) {
    pthread_mutex_lock(&stream->mutex);
    stream->done++;
    if (signals != NULL) cpu_fence_signal(signals);
    pthread_cond_broadcast(&stream->idle);
    pthread_mutex_unlock(&stream->mutex);
    cpu_fence_drop(signals);
}

static void perform(cpu_op *op, CUstream stream) {
    cpu_fence *signals = op->signals != NULL ? cpu_fence_share(op->signals) : NULL;
    bool runs = op->run != NULL && (op->always || cpu_lost(stream->context) == CUDA_SUCCESS);
    if (runs) op->run(op, stream);
    op->drop(op);
    finish(stream, signals);
}

static void *serve(void *argument) {
    CUstream stream = argument;
    for (cpu_op *op; (op = take(stream)) != NULL;) perform(op, stream);
    cpu_lock();
    unlist(stream);
    cpu_unlock();
    cpu_stream_drop(stream);
    return NULL;
}

bool cpu_stream_busy(CUstream stream) {
    pthread_mutex_lock(&stream->mutex);
    bool busy = stream->done < stream->submitted;
    pthread_mutex_unlock(&stream->mutex);
    return busy;
}

void cpu_stream_wait(CUstream stream) {
    pthread_mutex_lock(&stream->mutex);
    uint64_t target = stream->submitted;
    while (stream->done < target) pthread_cond_wait(&stream->idle, &stream->mutex);
    pthread_mutex_unlock(&stream->mutex);
}

CUresult cpu_context_wait(CUcontext context) {
    cpu_lock();
    unsigned count = 0;
    for (CUstream stream = context->streams; stream != NULL; stream = stream->next) count++;
    CUstream *streams = malloc((count ? count : 1) * sizeof *streams);
    unsigned taken = 0;
    for (CUstream stream = context->streams; streams && stream != NULL; stream = stream->next)
        streams[taken++] = cpu_stream_share(stream);
    cpu_unlock();
    if (streams == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    for (unsigned i = 0; i < taken; i++) {
        cpu_stream_wait(streams[i]);
        cpu_stream_drop(streams[i]);
    }
    free(streams);
    return cpu_lost(context);
}

/* ---- order between streams ---- */

enum fence_use { SIGNAL, WAIT };

typedef struct fence_op {
    cpu_op op;
    cpu_fence *fence;
} fence_op;

static void run_wait(cpu_op *op, CUstream stream) {
    (void)stream;
    cpu_fence_wait(((fence_op *)op)->fence);
}

static void drop_fence_op(cpu_op *op) {
    cpu_fence_drop(((fence_op *)op)->fence);
    free(op);
}

static CUresult append_fence(CUstream stream, cpu_fence *fence, enum fence_use use) {
    fence_op *op = cpu_op_new(sizeof *op, use == WAIT ? run_wait : NULL, drop_fence_op);
    if (op == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    op->op.always = true;
    op->op.signals = use == SIGNAL ? fence : NULL;
    op->fence = cpu_fence_share(fence);
    return append(stream, &op->op);
}

/* `later` waits for everything that `earlier` has to do by now. */
static CUresult order(CUstream earlier, CUstream later) {
    if (earlier == later || !cpu_stream_busy(earlier)) return CUDA_SUCCESS;
    cpu_fence *fence = cpu_fence_new();
    if (fence == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = append_fence(earlier, fence, SIGNAL);
    if (result == CUDA_SUCCESS) result = append_fence(later, fence, WAIT);
    cpu_fence_drop(fence);
    return result;
}

/* The legacy stream waits for all blocking streams, and they wait for it. Work of the legacy stream
 * while a blocking stream captures would tie the two together: 906. */
static CUresult order_with_legacy(CUstream stream) {
    CUstream legacy = stream->context->legacy;
    if (stream->flags & CU_STREAM_NON_BLOCKING) return CUDA_SUCCESS;
    if (stream != legacy) return order(legacy, stream);
    CUresult result = CUDA_SUCCESS;
    for (CUstream other = stream->context->streams; other != NULL; other = other->next) {
        if (other == legacy || (other->flags & CU_STREAM_NON_BLOCKING)) continue;
        if (other->capture != NULL) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        if (result == CUDA_SUCCESS) result = order(other, legacy);
    }
    return result;
}

CUresult cpu_submit(CUstream stream, cpu_op *op) {
    if (op == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    if (stream->capture != NULL) return cpu_capture_add(stream, op);
    CUresult result = order_with_legacy(stream);
    if (result == CUDA_SUCCESS) return append(stream, op);
    op->drop(op);
    return result;
}

static CUresult submit_fence_op(CUstream stream, cpu_fence *fence, enum fence_use use) {
    CUresult result = order_with_legacy(stream);
    return result == CUDA_SUCCESS ? append_fence(stream, fence, use) : result;
}

CUresult cpu_submit_fence(CUstream stream, cpu_fence *fence) {
    return submit_fence_op(stream, fence, SIGNAL);
}

CUresult cpu_submit_wait(CUstream stream, cpu_fence *fence) {
    return submit_fence_op(stream, fence, WAIT);
}

void *cpu_op_new(size_t bytes, void (*run)(cpu_op *, CUstream), void (*drop)(cpu_op *)) {
    cpu_op *op = calloc(1, bytes);
    if (op == NULL) return NULL;
    op->run = run;
    op->drop = drop;
    return op;
}

void cpu_op_free(cpu_op *op) { free(op); }
