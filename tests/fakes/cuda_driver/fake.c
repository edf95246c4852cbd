/* A CUDA driver without a GPU, for tests: device memory is host memory with a limit and checked
 * bounds, queued work is done at once, and what is not given back is counted.
 *
 * Environment: FAKE_CUDA_MEMORY (bytes, 4 GiB), FAKE_CUDA_INIT (what cuInit answers), FAKE_CUDA_DEVICES
 * (1), FAKE_CUDA_NAME, FAKE_CUDA_CC ("8.9"), FAKE_CUDA_VERSION (13010), FAKE_CUDA_FAIL ("cuMemAlloc:2":
 * the second call answers 999), FAKE_CUDA_REPORT (file that gets the report when the process ends).
 *
 * Not modelled: time, order between streams (a fork inside a capture too), kernels, peer access.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int R;
typedef uint64_t Ptr;
enum { OK, INVALID = 1, NO_MEMORY, NOT_INITIALIZED, BAD_DEVICE = 101, BAD_CONTEXT = 201,
       BAD_HANDLE = 400, BAD_STATE, NOT_FOUND = 500, NOT_READY = 600, DEAD_CONTEXT = 709,
       IN_CAPTURE = 900, SPOILED, WRONG_THREAD = 908, UNKNOWN = 999 };
enum { BUFFER, PINNED, STREAM, EVENT, GRAPH, EXEC, KINDS };

typedef struct { char *to; const char *from; size_t to_pitch, from_pitch, width, rows; } Copy;
typedef struct Object {
    int kind, flags, count, spoiled, marked;
    char *memory;
    size_t size;
    void *captor;
    double time;
    Copy *copies;
    struct Object *next;
} Object;
typedef struct { int retained; } Device;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Object *objects;
static int live[KINDS], depth_all, launches, started;
static size_t used;
static Device devices[16];
static __thread Device *stack[64];
static __thread int depth;
static __thread Object *capturing;

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}
static size_t limit(void) { return strtoull(setting("FAKE_CUDA_MEMORY", "4294967296"), 0, 10); }
static int device_count(void) { return atoi(setting("FAKE_CUDA_DEVICES", "1")); }

/* The checks before every call: planned failure, cuInit, a living current context. */
static R enter(const char *name, int *calls, int needs_context) {
    const char *fail = setting("FAKE_CUDA_FAIL", ":0"), *colon = strchr(fail, ':');
    int call = __sync_add_and_fetch(calls, 1);
    if (colon && strlen(name) == (size_t)(colon - fail) && !strncmp(name, fail, colon - fail)
        && call == atoi(colon + 1))
        return UNKNOWN;
    if (!started) return NOT_INITIALIZED;
    if (needs_context && !depth) return BAD_CONTEXT;
    if (needs_context && !stack[depth - 1]->retained) return DEAD_CONTEXT;
    return OK;
}
#define CHECK(name, needs_context) do { static int calls; \
    R r_ = enter(name, &calls, needs_context); if (r_) return r_; } while (0)
#define OUTSIDE(name) CHECK(name, 0)
#define INSIDE(name) CHECK(name, 1)
#define FIND(variable, kind, handle) Object *variable = find(kind, handle); \
    if (!variable) return BAD_HANDLE

static Object *add(int kind, char *memory, size_t size) {
    Object *o = calloc(1, sizeof *o);
    o->kind = kind; o->memory = memory ? memory : (char *)o; o->size = size;
    pthread_mutex_lock(&lock);
    o->next = objects; objects = o; live[kind]++;
    if (kind == BUFFER) used += size;
    pthread_mutex_unlock(&lock);
    return o;
}
static Object *find(int kind, const void *memory) {
    pthread_mutex_lock(&lock);
    Object *o = objects;
    while (o && (o->kind != kind || o->memory != memory)) o = o->next;
    pthread_mutex_unlock(&lock);
    return o;
}
static R destroy(int kind, void *memory) {
    pthread_mutex_lock(&lock);
    Object **at = &objects, *o;
    while ((o = *at) && (o->kind != kind || o->memory != memory)) at = &o->next;
    if (o) {
        *at = o->next; live[kind]--;
        if (kind == BUFFER) used -= o->size;
    }
    pthread_mutex_unlock(&lock);
    if (!o) return kind == BUFFER || kind == PINNED ? INVALID : BAD_HANDLE;
    if (kind == BUFFER || kind == PINNED) free(o->memory);
    free(o->copies); free(o);
    return OK;
}
static int inside_buffer(const char *from, size_t size) {
    pthread_mutex_lock(&lock);
    Object *o = objects;
    while (o && !(o->kind == BUFFER && from >= o->memory && from + size <= o->memory + o->size))
        o = o->next;
    pthread_mutex_unlock(&lock);
    return o != NULL;
}

/* --- start, devices, contexts --- */
R cuInit(unsigned flags) {
    static int calls;
    R r = atoi(setting("FAKE_CUDA_INIT", "0"));
    if (!r && flags) r = INVALID;
    if (!r) started = 1;
    return r ? r : enter("cuInit", &calls, 0);
}
R cuDriverGetVersion(int *v) { *v = atoi(setting("FAKE_CUDA_VERSION", "13010")); return OK; }
R cuDeviceGetCount(int *n) { OUTSIDE("cuDeviceGetCount"); *n = device_count(); return OK; }
R cuDeviceGet(int *d, int i) {
    OUTSIDE("cuDeviceGet");
    if (i < 0 || i >= device_count() || i >= 16) return BAD_DEVICE;
    *d = i; return OK;
}
R cuDeviceGetName(char *s, int n, int d) {
    (void)d; OUTSIDE("cuDeviceGetName");
    snprintf(s, n, "%s", setting("FAKE_CUDA_NAME", "Fake GPU")); return OK;
}
R cuDeviceTotalMem_v2(size_t *n, int d) { (void)d; *n = limit(); return OK; }
R cuDeviceGetAttribute(int *v, int which, int d) {
    const char *cc = setting("FAKE_CUDA_CC", "8.9");
    (void)d; OUTSIDE("cuDeviceGetAttribute");
    *v = which == 75 ? atoi(cc) : which == 76 ? atoi(strchr(cc, '.') + 1) : 0;
    return OK;
}
R cuDevicePrimaryCtxRetain(Device **c, int d) {
    OUTSIDE("cuDevicePrimaryCtxRetain");
    __sync_add_and_fetch(&devices[d].retained, 1);
    *c = &devices[d]; return OK;
}
R cuDevicePrimaryCtxRelease_v2(int d) {
    OUTSIDE("cuDevicePrimaryCtxRelease");
    if (devices[d].retained <= 0) return BAD_CONTEXT;
    __sync_sub_and_fetch(&devices[d].retained, 1); return OK;
}
R cuCtxPushCurrent_v2(Device *c) {
    OUTSIDE("cuCtxPushCurrent");
    if (!c || depth == 64) return BAD_CONTEXT;
    if (!c->retained) return DEAD_CONTEXT;
    stack[depth++] = c; __sync_add_and_fetch(&depth_all, 1); return OK;
}
R cuCtxPopCurrent_v2(Device **c) {
    OUTSIDE("cuCtxPopCurrent");
    if (!depth) return BAD_CONTEXT;
    depth--; __sync_sub_and_fetch(&depth_all, 1);
    if (c) *c = stack[depth];
    return OK;
}
R cuCtxGetCurrent(Device **c) { *c = depth ? stack[depth - 1] : NULL; return OK; }
R cuCtxSetCurrent(Device *c) {
    OUTSIDE("cuCtxSetCurrent");
    if (depth) cuCtxPopCurrent_v2(NULL);
    return c ? cuCtxPushCurrent_v2(c) : OK;
}
R cuCtxGetDevice(int *d) { INSIDE("cuCtxGetDevice"); *d = stack[depth - 1] - devices; return OK; }
R cuCtxSynchronize(void) { INSIDE("cuCtxSynchronize"); return OK; }

/* --- memory --- */
static R allocate(Ptr *p, size_t n) {
    void *memory;
    if (!n) return INVALID;
    if (capturing) { capturing->spoiled = 1; return IN_CAPTURE; }
    if (n > limit() || used > limit() - n || posix_memalign(&memory, 256, n)) return NO_MEMORY;
    memset(memory, 0xA5, n < 1 << 20 ? n : 1 << 20); /* never zero by luck */
    add(BUFFER, memory, n); *p = (Ptr)memory; return OK;
}
R cuMemAlloc_v2(Ptr *p, size_t n) { INSIDE("cuMemAlloc"); return allocate(p, n); }
R cuMemAllocAsync(Ptr *p, size_t n, void *s) {
    (void)s; INSIDE("cuMemAllocAsync"); return allocate(p, n);
}
R cuMemFree_v2(Ptr p) { INSIDE("cuMemFree"); return destroy(BUFFER, (void *)p); }
R cuMemFreeAsync(Ptr p, void *s) {
    (void)s; INSIDE("cuMemFreeAsync"); return destroy(BUFFER, (void *)p);
}
R cuMemGetInfo_v2(size_t *available, size_t *total) {
    INSIDE("cuMemGetInfo");
    *total = limit(); *available = used < limit() ? limit() - used : 0; return OK;
}
R cuMemHostAlloc(void **p, size_t n, unsigned flags) {
    (void)flags; INSIDE("cuMemHostAlloc");
    if (!n) return INVALID;
    if (posix_memalign(p, 4096, n)) return NO_MEMORY;
    add(PINNED, *p, n); return OK;
}
R cuMemAllocHost_v2(void **p, size_t n) { return cuMemHostAlloc(p, n, 0); }
R cuMemFreeHost(void *p) { INSIDE("cuMemFreeHost"); return destroy(PINNED, p); }

/* --- copies: at once, or noted where the stream is captured --- */
static void run(const Copy *c) {
    for (size_t y = 0; y < c->rows; y++)
        memmove(c->to + y * c->to_pitch, c->from + y * c->from_pitch, c->width);
}
static void note(Object *o, const Copy *copies, int n) {
    o->copies = realloc(o->copies, (o->count + n + 1) * sizeof *copies);
    if (n) memcpy(o->copies + o->count, copies, n * sizeof *copies);
    o->count += n;
}
static R queue(void *stream, const Copy *copies, int n) {
    if (stream) {
        FIND(s, STREAM, stream);
        if (s->captor) { note(s, copies, n); return OK; }
    }
    for (int i = 0; i < n; i++) run(copies + i);
    return OK;
}
static R flat(void *to, int to_device, const void *from, int from_device, size_t n, void *stream) {
    Copy c = {to, from, n, n, n, 1};
    if ((to_device && !inside_buffer(to, n)) || (from_device && !inside_buffer(from, n)))
        return INVALID;
    return queue(stream, &c, 1);
}
R cuMemcpyHtoD_v2(Ptr t, const void *f, size_t n) {
    INSIDE("cuMemcpyHtoD"); return flat((void *)t, 1, f, 0, n, NULL);
}
R cuMemcpyDtoH_v2(void *t, Ptr f, size_t n) {
    INSIDE("cuMemcpyDtoH"); return flat(t, 0, (void *)f, 1, n, NULL);
}
R cuMemcpyDtoD_v2(Ptr t, Ptr f, size_t n) {
    INSIDE("cuMemcpyDtoD"); return flat((void *)t, 1, (void *)f, 1, n, NULL);
}
R cuMemcpyHtoDAsync_v2(Ptr t, const void *f, size_t n, void *s) {
    INSIDE("cuMemcpyHtoDAsync"); return flat((void *)t, 1, f, 0, n, s);
}
R cuMemcpyDtoHAsync_v2(void *t, Ptr f, size_t n, void *s) {
    INSIDE("cuMemcpyDtoHAsync"); return flat(t, 0, (void *)f, 1, n, s);
}
R cuMemcpyDtoDAsync_v2(Ptr t, Ptr f, size_t n, void *s) {
    INSIDE("cuMemcpyDtoDAsync"); return flat((void *)t, 1, (void *)f, 1, n, s);
}
typedef struct { size_t x, y; int type; char *host; Ptr device; void *array; size_t pitch; } Side;
typedef struct { Side from, to; size_t width, rows; } Copy2D;
static char *start_of(Side *s, size_t width, size_t rows) {
    if (!s->pitch) s->pitch = s->x + width;
    if (s->pitch < s->x + width || s->type < 1 || s->type > 2) return NULL;
    char *at = (s->type == 1 ? s->host : (char *)s->device) + s->y * s->pitch + s->x;
    if (s->type == 2 && rows && !inside_buffer(at, (rows - 1) * s->pitch + width)) return NULL;
    return at;
}
static R pitched(const Copy2D *asked, void *stream) {
    Copy2D c = *asked;
    char *from = start_of(&c.from, c.width, c.rows), *to = start_of(&c.to, c.width, c.rows);
    if (!from || !to) return INVALID;
    Copy copy = {to, from, c.to.pitch, c.from.pitch, c.width, c.rows};
    return queue(stream, &copy, 1);
}
R cuMemcpy2D_v2(const Copy2D *c) { INSIDE("cuMemcpy2D"); return pitched(c, NULL); }
R cuMemcpy2DUnaligned_v2(const Copy2D *c) { INSIDE("cuMemcpy2DUnaligned"); return pitched(c, NULL); }
R cuMemcpy2DAsync_v2(const Copy2D *c, void *s) { INSIDE("cuMemcpy2DAsync"); return pitched(c, s); }

/* --- streams and events --- */
R cuStreamCreate(void **s, unsigned flags) {
    INSIDE("cuStreamCreate"); Object *o = add(STREAM, NULL, 0); o->flags = flags; *s = o; return OK;
}
R cuStreamCreateWithPriority(void **s, unsigned flags, int priority) {
    (void)priority; return cuStreamCreate(s, flags);
}
R cuStreamGetFlags(void *s, unsigned *flags) { FIND(o, STREAM, s); *flags = o->flags; return OK; }
R cuStreamDestroy_v2(void *s) { INSIDE("cuStreamDestroy"); return destroy(STREAM, s); }
static R settle(void *stream) {
    if (!stream) return OK;
    FIND(s, STREAM, stream);
    if (s->captor) { s->spoiled = 1; return IN_CAPTURE; }
    return OK;
}
R cuStreamSynchronize(void *s) { INSIDE("cuStreamSynchronize"); return settle(s); }
R cuStreamQuery(void *s) { INSIDE("cuStreamQuery"); return settle(s); }
R cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    (void)flags; INSIDE("cuStreamWaitEvent");
    return find(EVENT, event) && (!stream || find(STREAM, stream)) ? OK : BAD_HANDLE;
}
R cuEventCreate(void **e, unsigned flags) {
    INSIDE("cuEventCreate"); Object *o = add(EVENT, NULL, 0); o->flags = flags; *e = o; return OK;
}
R cuEventDestroy_v2(void *e) { INSIDE("cuEventDestroy"); return destroy(EVENT, e); }
R cuEventRecord(void *event, void *stream) {
    static double now;  /* made-up milliseconds: one for each event that is recorded */
    INSIDE("cuEventRecord");
    FIND(e, EVENT, event);
    if (stream) {
        FIND(s, STREAM, stream);
        if (s->captor) return OK;
    }
    e->time = now += 1; e->marked = 1; return OK;
}
R cuEventSynchronize(void *e) {
    INSIDE("cuEventSynchronize"); return find(EVENT, e) ? OK : BAD_HANDLE;
}
R cuEventQuery(void *e) { INSIDE("cuEventQuery"); return find(EVENT, e) ? OK : BAD_HANDLE; }
R cuEventElapsedTime_v2(float *ms, void *from, void *to) {
    INSIDE("cuEventElapsedTime");
    FIND(a, EVENT, from); FIND(b, EVENT, to);
    if (!a->marked || !b->marked || (a->flags | b->flags) & 2) return BAD_HANDLE;
    *ms = (float)(b->time - a->time); return OK;
}
R cuEventElapsedTime(float *ms, void *a, void *b) { return cuEventElapsedTime_v2(ms, a, b); }

/* --- graphs --- */
R cuStreamBeginCapture_v2(void *stream, int mode) {
    (void)mode; INSIDE("cuStreamBeginCapture");
    FIND(s, STREAM, stream);
    if (s->captor || capturing) return BAD_STATE;
    s->captor = &depth; s->spoiled = s->count = 0; capturing = s; return OK;
}
R cuStreamIsCapturing(void *stream, int *status) {
    FIND(s, STREAM, stream); *status = s->captor ? 1 + s->spoiled : 0; return OK;
}
R cuStreamEndCapture(void *stream, void **graph) {
    INSIDE("cuStreamEndCapture");
    FIND(s, STREAM, stream);
    *graph = NULL;
    if (!s->captor) return BAD_STATE;
    if (s->captor != &depth) return WRONG_THREAD;
    s->captor = NULL; capturing = NULL;
    if (s->spoiled) return SPOILED;
    Object *g = add(GRAPH, NULL, 0);
    note(g, s->copies, s->count);
    *graph = g; return OK;
}
R cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
    (void)flags; INSIDE("cuGraphInstantiateWithFlags");
    FIND(g, GRAPH, graph);
    Object *e = add(EXEC, NULL, 0);
    note(e, g->copies, g->count);
    *exec = e; return OK;
}
R cuGraphLaunch(void *exec, void *stream) {
    INSIDE("cuGraphLaunch");
    FIND(e, EXEC, exec);
    __sync_add_and_fetch(&launches, 1);
    return queue(stream, e->copies, e->count);
}
R cuGraphDestroy(void *g) { INSIDE("cuGraphDestroy"); return destroy(GRAPH, g); }
R cuGraphExecDestroy(void *e) { INSIDE("cuGraphExecDestroy"); return destroy(EXEC, e); }

/* --- errors, symbols, the report --- */
static const struct { int code; const char *name, *text; } errors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a capture from another thread"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};
static R text(int code, const char **out, int name) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) {
            *out = name ? errors[i].name : errors[i].text; return OK;
        }
    *out = NULL; return INVALID;
}
R cuGetErrorName(int code, const char **s) { return text(code, s, 1); }
R cuGetErrorString(int code, const char **s) { return text(code, s, 0); }

static R unsupported(void) { return 801; }
/* cuda-python asks for names without their version suffix. */
R cuGetProcAddress_v2(const char *name, void **f, int version, uint64_t flags, int *status) {
    char suffixed[200];
    Dl_info self;
    (void)version; (void)flags;
    dladdr((void *)cuGetErrorName, &self);
    void *library = dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    snprintf(suffixed, sizeof suffixed, "%s_v2", name);
    *f = dlsym(library, suffixed);
    if (!*f) *f = dlsym(library, name);
    if (!*f) *f = (void *)unsupported;
    dlclose(library);
    if (status) *status = 0;
    return OK;
}
R cuGetProcAddress(const char *name, void **f, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, f, version, flags, NULL);
}

/* What is alive, as "buffers=0 ..."; depth is the sum of all threads' context stacks. */
void fake_cuda_report(char *out, int size) {
    int contexts = 0;
    for (int i = 0; i < 16; i++) contexts += devices[i].retained;
    snprintf(out, size, "buffers=%d pinned=%d streams=%d events=%d graphs=%d contexts=%d depth=%d"
             " launches=%d", live[BUFFER], live[PINNED], live[STREAM], live[EVENT],
             live[GRAPH] + live[EXEC], contexts, depth_all, launches);
}
__attribute__((destructor)) static void at_exit(void) {
    char report[300];
    FILE *file = fopen(setting("FAKE_CUDA_REPORT", "/dev/null"), "w");
    fake_cuda_report(report, sizeof report);
    if (file) { fprintf(file, "%s\n", report); fclose(file); }
}
