// Kernels of hicache-gds. `cargo xtask gds ptx` builds pages.ptx from this, and compares it with the one that is checked in.
// Types are spelled out: the compiler is nvrtc, without headers.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

// One run of bytes to copy; addresses of the device or of pinned host memory.
struct Run {
    u64 from;
    u64 to;
    u64 bytes;
};

// A block for each run, and then for the next one as many runs further on: short runs, of which a copy engine would make
// a command each.
extern "C" __global__ void copy_runs(const Run *runs, u32 count) {
    for (u32 i = blockIdx.x; i < count; i += gridDim.x) {
        const Run run = runs[i];
        const u64 both = run.from | run.to | run.bytes;
        if ((both & 15) == 0) {
            const uint4 *from = (const uint4 *)run.from;
            uint4 *to = (uint4 *)run.to;
            for (u64 at = threadIdx.x; at < run.bytes / 16; at += blockDim.x) to[at] = from[at];
        } else if ((both & 3) == 0) {
            const u32 *from = (const u32 *)run.from;
            u32 *to = (u32 *)run.to;
            for (u64 at = threadIdx.x; at < run.bytes / 4; at += blockDim.x) to[at] = from[at];
        } else {
            const u8 *from = (const u8 *)run.from;
            u8 *to = (u8 *)run.to;
            for (u64 at = threadIdx.x; at < run.bytes; at += blockDim.x) to[at] = from[at];
        }
    }
}

// CRC-64/NVMe, bit-reflected: the lowest bit of a word is the coefficient of the highest power.
#define POLYNOMIAL 0x9a6c9329ac4bc9b5ull

// A part of a page: its bytes, how many bytes of the page come after it, what the sum begins with, and which page it is of.
struct Part {
    u64 address;
    u64 after;
    u64 seed;
    u32 bytes;
    u32 page;
};

// a * b modulo the polynomial.
__device__ static u64 multiply(u64 a, u64 b) {
    u64 product = 0;
    for (int bit = 63; bit >= 0; bit--) {
        if ((a >> bit) & 1) product ^= b;
        b = (b >> 1) ^ ((b & 1) ? POLYNOMIAL : 0);
    }
    return product;
}

// A thread for each part. The remainder of its bytes is multiplied by x^(8 * after) and added to the sum of its page, which is
// 0 before. `table[v]` is the remainder of the byte v, `powers[k]` is x^(8 * 2^k). The first part of a page has all ones for its
// seed, the others 0, and whoever reads the sum inverts it: that is how the checksum is defined.
extern "C" __global__ void sum_parts(
    const Part *parts, u32 count, const u64 *table, const u64 *powers, u64 *sums) {
    __shared__ u64 own[256];
    for (u32 i = threadIdx.x; i < 256; i += blockDim.x) own[i] = table[i];
    __syncthreads();
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const Part part = parts[i];
    const u8 *bytes = (const u8 *)part.address;
    u64 sum = part.seed;
    u32 at = 0;
    while (at < part.bytes && ((part.address + at) & 7)) {
        sum = (sum >> 8) ^ own[(sum ^ bytes[at]) & 255];
        at++;
    }
    for (; at + 8 <= part.bytes; at += 8) {
        sum ^= *(const u64 *)(bytes + at);
        for (int k = 0; k < 8; k++) sum = (sum >> 8) ^ own[sum & 255];
    }
    for (; at < part.bytes; at++) sum = (sum >> 8) ^ own[(sum ^ bytes[at]) & 255];
    u64 after = part.after;
    for (int k = 0; after; k++, after >>= 1) {
        if (after & 1) sum = multiply(sum, powers[k]);
    }
    atomicXor(&sums[part.page], sum);
}
