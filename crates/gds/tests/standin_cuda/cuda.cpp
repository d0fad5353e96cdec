// Stands in for libcuda.so.1 where there is no GPU: memory of the device is memory of the host that only this library touches,
// and what is queued in a stream happens when somebody waits for it, so that who looks too early sees nothing.
//
// STANDIN_DEVICES says how many devices there are, STANDIN_MEMORY how many bytes each has, STANDIN_FREE_MS how long it takes to
// free memory, STANDIN_KERNELS what is wrong with its kernels (see `wrong_with_kernels`), STANDIN_PTX=0 that it can't load them. It
// ends the process by a signal where a driver would answer an error or do worse: when a forked child calls it, and, with
// STANDIN_STRICT, when it is called while the process ends.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <sys/syscall.h>
#include <unistd.h>

// What CUDA gives every kernel, for one thread at a time.
struct Dimensions { unsigned x; };
static Dimensions blockIdx, blockDim, gridDim, threadIdx;
struct alignas(16) uint4 { unsigned x, y, z, w; };
#define __global__
#define __device__
#define __shared__ static
static void __syncthreads() {}
static unsigned long long atomicXor(unsigned long long *at, unsigned long long value) {
    unsigned long long before = *at;
    *at ^= value;
    return before;
}
#include "pages.cu"

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, DEINITIALIZED = 4, NO_DEVICE = 100, INVALID_DEVICE = 101, NOT_FOUND = 500 };

struct Stream {
    std::deque<std::function<void()>> queued;
    uint64_t done = 0, last = 0;
    void run(uint64_t until) {
        while (done < until && !queued.empty()) {
            auto work = queued.front();
            queued.pop_front();
            done++;
            work();
        }
    }
    void add(std::function<void()> work) {
        queued.push_back(work);
        last++;
    }
};
struct Event {
    Stream *stream = nullptr;
    uint64_t position = 0;
};
struct Allocation {
    size_t bytes;
    bool device;
    int ordinal;
};

// What threads may still look at while the process ends is never destroyed.
static auto &lock = *new std::recursive_mutex;
static auto &allocations = *new std::map<uint64_t, Allocation>;
static auto &streams = *new std::map<Stream *, bool>;
// Calls that are to fail: how often, and the code.
static auto &failures = *new std::map<std::string, std::pair<long, unsigned>>;
// How often each function was called.
static auto &calls = *new std::map<std::string, long>;
static size_t in_use = 0;
static thread_local intptr_t current = 0;
static thread_local intptr_t before[8];
static thread_local size_t depth = 0;

static pid_t initialised_by = 0;
static bool ended = false;
static struct End {
    ~End() {
        ended = true;
        // Long enough that whoever still would call does.
        if (getenv("STANDIN_STRICT")) usleep(200000);
    }
} end;

static unsigned alive(const char *call) {
    bool forked = initialised_by && initialised_by != getpid();
    if (!ended && !forked) return SUCCESS;
    if (!forked && !getenv("STANDIN_STRICT")) return DEINITIALIZED;
    fprintf(stderr, "stand-in: %s was called %s\n", call, ended ? "while the process ends" : "in a forked child");
    abort();
}

struct Guard {
    unsigned failure = 0;
    explicit Guard(const char *call) {
        failure = alive(call);
        lock.lock();
        if (failure) return;
        calls[call]++;
        auto found = failures.find(call);
        if (found == failures.end() || found->second.first == 0) return;
        found->second.first--;
        failure = found->second.second;
    }
    ~Guard() { lock.unlock(); }
};
#define GUARDED \
    Guard guard(__func__); \
    if (guard.failure) return guard.failure

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}
static long devices() { return number("STANDIN_DEVICES", 1); }

// What is wrong with the kernels: nothing for "", all sums for "sums", those of parts at odd addresses for "unaligned", of parts
// with much behind them for "far", with less for "long", of parts that are no whole words for "tails"; all copies for "copies",
// those of odd lengths for "odd copies"; nothing is done for "idle", and success told.
static std::string &wrong_with_kernels() {
    static auto &what = *new std::string(getenv("STANDIN_KERNELS") ? getenv("STANDIN_KERNELS") : "");
    return what;
}
static bool sums_wrongly(const Part &part) {
    const std::string &what = wrong_with_kernels();
    return what == "sums" || (what == "unaligned" && (part.address & 7)) || (what == "far" && part.after >= 1 << 20) ||
           (what == "long" && part.after >= 1 << 15) ||
           (what == "tails" && (part.bytes & 7));
}
static void run_copies(const Run *runs, u32 count, unsigned blocks, unsigned threads) {
    const std::string &what = wrong_with_kernels();
    if (what == "idle") return;
    gridDim.x = blocks;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) copy_runs(runs, count);
    for (u32 i = 0; i < count; i++)
        if (runs[i].bytes && (what == "copies" || (what == "odd copies" && (runs[i].bytes & 1))))
            ((u8 *)runs[i].to)[runs[i].bytes - 1] ^= 1;
}
static void run_sums(const Part *parts, u32 count, const u64 *table, const u64 *powers, u64 *sums) {
    if (wrong_with_kernels() == "idle") return;
    // A block of one thread fills the shared table by itself.
    gridDim.x = count;
    blockDim.x = 1;
    threadIdx.x = 0;
    for (blockIdx.x = 0; blockIdx.x < count; blockIdx.x++) {
        sum_parts(parts, count, table, powers, sums);
        // No two parts of a page the same way, or they would make up for each other.
        const Part &part = parts[blockIdx.x];
        if (sums_wrongly(part)) sums[part.page] ^= (part.after + 1) * 0x9e3779b97f4a7c15ull;
    }
}

extern "C" {
// For tests in the same process: so many calls of this function fail with this code, before they do anything.
void standin_fail(const char *call, long times, unsigned code) {
    Guard guard("standin_fail");
    failures[call] = {times, code};
}

void standin_kernels(const char *what) {
    Guard guard("standin_kernels");
    wrong_with_kernels() = what;
}
long standin_calls(const char *call) {
    Guard guard("standin_calls");
    return calls[call];
}

unsigned cuInit(unsigned) {
    initialised_by = getpid();
    return devices() > 0 ? SUCCESS : NO_DEVICE;
}
unsigned cuDriverGetVersion(int *version) { *version = (int)number("STANDIN_VERSION", 12080); return SUCCESS; }
unsigned cuDeviceGetCount(int *count) { *count = (int)devices(); return SUCCESS; }
unsigned cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < devices() ? SUCCESS : INVALID_DEVICE; }
unsigned cuDeviceGetName(char *name, int bytes, int) { strncpy(name, "stand-in", bytes); return SUCCESS; }
unsigned cuDeviceGetAttribute(int *value, int, int) { *value = 0; return SUCCESS; }
unsigned cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(intptr_t)(device + 1); return SUCCESS; }
unsigned cuDevicePrimaryCtxRelease_v2(int) { GUARDED; return SUCCESS; }
// The main thread is the caller's, and so is what is current there.
unsigned cuCtxSetCurrent(void *context) {
    if (alive(__func__)) return DEINITIALIZED;
    if (syscall(SYS_gettid) == getpid()) return INVALID_VALUE;
    current = (intptr_t)context;
    return SUCCESS;
}
unsigned cuCtxPushCurrent_v2(void *context) {
    if (alive(__func__)) return DEINITIALIZED;
    // More are never nested: somebody forgets to pop.
    if (depth >= sizeof(before) / sizeof(before[0])) return INVALID_VALUE;
    before[depth++] = current;
    current = (intptr_t)context;
    return SUCCESS;
}
unsigned cuCtxPopCurrent_v2(void **context) {
    if (alive(__func__)) return DEINITIALIZED;
    if (!depth) return 201;
    *context = (void *)current;
    current = before[--depth];
    return SUCCESS;
}
static void run_all() {
    for (auto &stream : streams) stream.first->run(stream.first->last);
}
unsigned cuCtxSynchronize(void) {
    GUARDED;
    run_all();
    return current ? SUCCESS : 201;
}

static unsigned allocate(uint64_t *address, size_t bytes, bool device) {
    GUARDED;
    if (!current) return 201;
    if (device && in_use + bytes > (size_t)number("STANDIN_MEMORY", 1l << 40)) return OUT_OF_MEMORY;
    void *memory = nullptr;
    if (posix_memalign(&memory, 256, bytes)) return OUT_OF_MEMORY;
    memset(memory, device ? 0xcd : 0, bytes);
    in_use += device ? bytes : 0;
    *address = (uint64_t)memory;
    allocations[*address] = {bytes, device, (int)current - 1};
    return SUCCESS;
}
static unsigned release(uint64_t address, bool device) {
    if (alive(__func__)) return DEINITIALIZED;
    usleep(1000 * (useconds_t)number("STANDIN_FREE_MS", 0));
    GUARDED;
    auto found = allocations.find(address);
    if (!current || found == allocations.end() || found->second.device != device) return INVALID_VALUE;
    // As the driver: everything is done first.
    run_all();
    in_use -= device ? found->second.bytes : 0;
    memset((void *)address, 0xdd, found->second.bytes);
    allocations.erase(found);
    free((void *)address);
    return SUCCESS;
}
unsigned cuMemAlloc_v2(uint64_t *address, size_t bytes) { GUARDED; return allocate(address, bytes, true); }
unsigned cuMemFree_v2(uint64_t address) { return release(address, true); }
unsigned cuMemHostAlloc(void **address, size_t bytes, unsigned) { return allocate((uint64_t *)address, bytes, false); }
unsigned cuMemFreeHost(void *address) { return release((uint64_t)address, false); }

unsigned cuPointerGetAttribute(void *value, int attribute, uint64_t address) {
    GUARDED;
    auto next = allocations.upper_bound(address);
    if (next == allocations.begin()) return INVALID_VALUE;
    auto found = std::prev(next);
    if (address >= found->first + found->second.bytes) return INVALID_VALUE;
    switch (attribute) {
    case 2: *(unsigned *)value = found->second.device ? 2 : 1; return SUCCESS;
    case 9: *(int *)value = found->second.ordinal; return SUCCESS;
    case 11: *(uint64_t *)value = found->first; return SUCCESS;
    case 12: *(size_t *)value = found->second.bytes; return SUCCESS;
    }
    return INVALID_VALUE;
}

unsigned cuStreamCreate(void **stream, unsigned flags) {
    GUARDED;
    if (!current || flags != 1) return INVALID_VALUE;
    auto made = new Stream;
    streams[made] = true;
    *stream = made;
    return SUCCESS;
}
unsigned cuStreamSynchronize(void *stream) {
    GUARDED;
    if (!current || !streams.count((Stream *)stream)) return INVALID_VALUE;
    ((Stream *)stream)->run(((Stream *)stream)->last);
    return SUCCESS;
}
unsigned cuStreamDestroy_v2(void *stream) {
    GUARDED;
    ((Stream *)stream)->run(((Stream *)stream)->last);
    streams.erase((Stream *)stream); // Its events may still be asked: it is not freed.
    return SUCCESS;
}
unsigned cuEventCreate(void **event, unsigned) { GUARDED; *event = new Event; return current ? SUCCESS : 201; }
unsigned cuEventRecord(void *event, void *stream) {
    GUARDED;
    if (!current || !streams.count((Stream *)stream)) return INVALID_VALUE;
    *(Event *)event = {(Stream *)stream, ((Stream *)stream)->last};
    return SUCCESS;
}
unsigned cuEventSynchronize(void *event) {
    GUARDED;
    if (!current) return 201;
    if (((Event *)event)->stream) ((Event *)event)->stream->run(((Event *)event)->position);
    return SUCCESS;
}
unsigned cuStreamWaitEvent(void *stream, void *event, unsigned) {
    GUARDED;
    Event copy = *(Event *)event;
    ((Stream *)stream)->add([copy] { if (copy.stream) copy.stream->run(copy.position); });
    return SUCCESS;
}
unsigned cuEventDestroy_v2(void *event) { GUARDED; delete (Event *)event; return SUCCESS; }

unsigned cuMemcpyAsync(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    GUARDED;
    if (!current || !streams.count((Stream *)stream)) return INVALID_VALUE;
    ((Stream *)stream)->add([=] { memcpy((void *)to, (const void *)from, bytes); });
    return SUCCESS;
}
struct Attributes { unsigned order; int hints[4]; unsigned flags; };
unsigned cuMemcpyBatchAsync(uint64_t *to, uint64_t *from, size_t *bytes, size_t count, Attributes *attributes,
                            size_t *first, size_t kinds, size_t *, void *stream) {
    if (kinds != 1 || first[0] != 0 || attributes->order != 1 || attributes->flags != 0 || !stream) return INVALID_VALUE;
    // In the other order: a batch has none.
    for (size_t i = count; i-- > 0;) {
        unsigned answer = cuMemcpyAsync(to[i], from[i], bytes[i], stream);
        if (answer) return answer;
    }
    return SUCCESS;
}
unsigned cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t, unsigned *status) {
    bool known = !strcmp(name, "cuMemcpyBatchAsync") && version == 12080;
    *found = known ? (void *)cuMemcpyBatchAsync : nullptr;
    *status = known ? 0 : 1;
    return known ? SUCCESS : NOT_FOUND;
}

unsigned cuModuleLoadData(void **module, const void *text) {
    GUARDED;
    if (!number("STANDIN_PTX", 1)) return 222; // Of a version that this driver does not know.
    *module = (void *)1;
    return strstr((const char *)text, ".entry sum_parts") ? SUCCESS : 218;
}
unsigned cuModuleUnload(void *) { GUARDED; return SUCCESS; }
unsigned cuModuleGetFunction(void **function, void *, const char *name) {
    *function = (void *)(intptr_t)(!strcmp(name, "copy_runs") ? 1 : !strcmp(name, "sum_parts") ? 2 : 0);
    return *function ? SUCCESS : NOT_FOUND;
}
unsigned cuLaunchKernel(void *function, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned,
                        unsigned, void *stream, void **arguments, void **) {
    GUARDED;
    if (!current || !streams.count((Stream *)stream) || !threads) return INVALID_VALUE;
    uint64_t a = *(uint64_t *)arguments[0];
    u32 count = *(u32 *)arguments[1];
    if ((intptr_t)function == 1) {
        ((Stream *)stream)->add([=] { run_copies((const Run *)a, count, blocks, threads); });
        return SUCCESS;
    }
    uint64_t table = *(uint64_t *)arguments[2], powers = *(uint64_t *)arguments[3], sums = *(uint64_t *)arguments[4];
    if ((uint64_t)blocks * threads < count) return INVALID_VALUE;
    ((Stream *)stream)->add([=] {
        run_sums((const Part *)a, count, (const u64 *)table, (const u64 *)powers, (u64 *)sums);
    });
    return SUCCESS;
}
}
