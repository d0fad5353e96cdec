// Stands in for libcufile.so.0 beside the library that stands in for libcuda: "device" memory is memory of the host here.
//
// STANDIN_NVFS: the nvidia-fs module is loaded. STANDIN_DIRECT: files can be served past host memory; others are served by
// compatibility mode, where that is allowed. STANDIN_P2P: the flags of peer-to-peer. STANDIN_BATCHES: `swap` has the operations of a
// batch move each other's pages, `crash` ends the process. STANDIN_STUBBORN: compatibility mode can't be forbidden.
//
// With OLD it is a version before 1.14, which is told by a variable of the environment.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

struct Error { int err, cuda; };
struct Properties {
    unsigned major, minor;
    size_t poll, direct;
    unsigned status, control, features, cache, per_buffer, pinned, batch, timeout;
};
struct Descriptor {
    unsigned kind;
    union { int fd; void *handle; };
    const void *operations;
};
struct Operation {
    unsigned mode;
    struct { void *base; off_t offset, skip; size_t bytes; } batch;
    void *handle;
    unsigned direction;
    void *cookie;
};
struct Event { void *cookie; unsigned status; size_t moved; };
struct Batch { Operation operations[64]; unsigned count; };

static Error code(int err) { return {err, 0}; }
static const char *told(const char *name) { const char *text = getenv(name); return text ? text : ""; }
static bool is(const char *name) { return *told(name) != 0; }

static bool compat =
#ifdef OLD
    strcmp(told("CUFILE_ALLOW_COMPAT_MODE"), "false") != 0;
#else
    true;
#endif
static bool is_open = false;
static pid_t opened_by = 0;

// No forked child may call what its parent uses.
static void alive() {
    if (opened_by && opened_by != getpid()) abort();
}

extern "C" {
Error cuFileDriverOpen() {
    // As a library that talks without ending its line.
    const char text[] = "cuFile says hello";
    if (write(1, text, sizeof text - 1) < 0) return code(5030);
    is_open = true;
    opened_by = getpid();
    return code(0);
}
Error cuFileDriverGetProperties(Properties *properties) {
    memset(properties, 0, sizeof *properties);
    if (is("STANDIN_NVFS")) {
        properties->major = 2;
        properties->minor = 20;
        properties->status = 1 << 4;
    }
#ifdef OLD
    properties->status |= is("STANDIN_P2P") ? 1 << 11 : 0;
#endif
    properties->control = compat ? 1 << 1 : 0;
    properties->batch = 64;
    return code(0);
}
Error cuFileGetVersion(int *version) { *version = 1170; return code(0); }
#ifndef OLD
Error cuFileSetParameterBool(unsigned parameter, bool value) {
    if (parameter != 1 || is_open) return code(5022);
    if (!is("STANDIN_STUBBORN")) compat = value;
    return code(0);
}
Error cuFileDriverGetP2PFlags(unsigned file_system, unsigned *flags) {
    *flags = (unsigned)atoi(told("STANDIN_P2P"));
    return code(file_system == 4 && is_open ? 0 : 5022);
}
#endif

// A handle is a descriptor and 1.
Error cuFileHandleRegister(void **handle, Descriptor *descriptor) {
    alive();
    if (!is("STANDIN_DIRECT") && !compat) return code(5008);
    *handle = (void *)(intptr_t)(dup(descriptor->fd) + 1);
    return code(0);
}
void cuFileHandleDeregister(void *handle) { alive(); close((int)(intptr_t)handle - 1); }
Error cuFileBufRegister(const void *, size_t, int) { alive(); return code(0); }
Error cuFileBufDeregister(const void *) { alive(); return code(0); }
ssize_t cuFileRead(void *handle, void *base, size_t bytes, off_t offset, off_t skip) {
    return pread((int)(intptr_t)handle - 1, (char *)base + skip, bytes, offset);
}
ssize_t cuFileWrite(void *handle, const void *base, size_t bytes, off_t offset, off_t skip) {
    return pwrite((int)(intptr_t)handle - 1, (const char *)base + skip, bytes, offset);
}

Error cuFileBatchIOSetUp(void **handle, unsigned) { *handle = new Batch(); return code(0); }
Error cuFileBatchIOSubmit(void *handle, unsigned count, Operation *operations, unsigned) {
    if (!strcmp(told("STANDIN_BATCHES"), "crash")) abort();
    auto batch = (Batch *)handle;
    if (count > 64) return code(5022);
    memcpy(batch->operations, operations, count * sizeof *operations);
    batch->count = count;
    return code(0);
}
Error cuFileBatchIOGetStatus(void *handle, unsigned, unsigned *count, Event *events, timespec *) {
    auto batch = (Batch *)handle;
    bool swap = !strcmp(told("STANDIN_BATCHES"), "swap");
    for (unsigned i = 0; i < batch->count; i++) {
        Operation one = batch->operations[i], other = batch->operations[swap ? batch->count - 1 - i : i];
        ssize_t moved = one.direction
            ? cuFileWrite(one.handle, other.batch.base, one.batch.bytes, one.batch.offset, 0)
            : cuFileRead(one.handle, one.batch.base, one.batch.bytes, one.batch.offset, 0);
        events[i] = {one.cookie, moved < 0 ? 0x40u : 0x10u, (size_t)moved};
    }
    *count = batch->count;
    batch->count = 0;
    return code(0);
}
Error cuFileBatchIOCancel(void *) { return code(0); }
void cuFileBatchIODestroy(void *handle) { delete (Batch *)handle; }
}
