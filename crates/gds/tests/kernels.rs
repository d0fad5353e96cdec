//! The kernels' source, compiled for the CPU by a C++ compiler and run thread by thread: what each thread does is right, whatever
//! runs them. Without a compiler the test says so.

#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::path::Path;
use std::process::Command;

use hicache_core::hashing::checksum;
use hicache_gds::checksum::parts::{Part, cut, powers, table};
use hicache_gds::cuda::kernels::Run;

/// What CUDA gives every kernel, for one thread at a time, and a loop over all threads of a launch.
const SHIM: &str = r#"
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
template <typename Kernel> static void launch(unsigned blocks, unsigned threads, Kernel kernel) {
    gridDim.x = blocks;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) kernel();
}
extern "C" void launch_copies(const Run *runs, unsigned count, unsigned blocks, unsigned threads) {
    launch(blocks, threads, [&] { copy_runs(runs, count); });
}
// A block of one thread fills the shared table by itself.
extern "C" void launch_sums(const Part *parts, unsigned count, const u64 *table, const u64 *powers, u64 *sums) {
    launch(count + 1, 1, [&] { sum_parts(parts, count, table, powers, sums); });
}
"#;

type Copies = unsafe extern "C" fn(*const Run, u32, u32, u32);
type Sums = unsafe extern "C" fn(*const Part, u32, *const u64, *const u64, *mut u64);

/// The kernels as a library; `None`, said on the way, where there is no compiler.
fn compiled(directory: &Path) -> Option<libloading::Library> {
    let works = |name: &&str| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let Some(compiler) = ["c++", "g++", "clang++"].into_iter().find(works) else {
        println!("went without: a C++ compiler for the kernels' source");
        return None;
    };
    let (source, library) = (directory.join("shim.cpp"), directory.join("libkernels.so"));
    std::fs::write(&source, SHIM).unwrap();
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let built = Command::new(compiler)
        .args(["-std=c++14", "-O1", "-fno-strict-aliasing", "-shared", "-fPIC", "-I"])
        .args([kernels.as_os_str(), source.as_os_str(), "-o".as_ref(), library.as_os_str()])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    // SAFETY: a library of the two functions above, without initialisers.
    Some(unsafe { libloading::Library::new(&library) }.unwrap())
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn the_sums_are_the_checksums_bit_for_bit() {
    let directory = tempfile::tempdir().unwrap();
    let Some(library) = compiled(directory.path()) else { return };
    // SAFETY: of this type above.
    let launch = unsafe { *library.get::<Sums>(b"launch_sums\0").unwrap() };
    let memory = bytes(400_000);
    // Pages of odd lengths at odd places, one of them in three pieces.
    let pages: Vec<Vec<(usize, usize)>> = vec![
        vec![(0, 1)],
        vec![(3, 7)],
        vec![(8, 4096)],
        vec![(5001, 65_537)],
        vec![(100_000, 200_000)],
        vec![(77, 1000), (1_000, 1), (300_001, 31_337)],
    ];
    for most in [512, 1024, 1021] {
        let mut parts = Vec::new();
        for (number, page) in pages.iter().enumerate() {
            let pieces: Vec<(u64, usize)> =
                page.iter().map(|&(at, length)| (memory[at..].as_ptr() as u64, length)).collect();
            cut(number as u32, &pieces, most, &mut parts);
        }
        let mut sums = vec![0_u64; pages.len()];
        let (table, powers) = (table(), powers());
        // SAFETY: the lists are as long as is said, and the parts lie in `memory`.
        unsafe {
            launch(parts.as_ptr(), parts.len() as u32, table.as_ptr(), powers.as_ptr(), sums.as_mut_ptr());
        }
        for (page, sum) in pages.iter().zip(sums) {
            let content: Vec<u8> =
                page.iter().flat_map(|&(at, length)| &memory[at..at + length]).copied().collect();
            assert_eq!(!sum, checksum(&content), "{page:?} in parts of {most}");
        }
    }
}

#[test]
fn the_copies_are_copies() {
    let directory = tempfile::tempdir().unwrap();
    let Some(library) = compiled(directory.path()) else { return };
    // SAFETY: of this type above.
    let launch = unsafe { *library.get::<Copies>(b"launch_copies\0").unwrap() };
    let source = bytes(1 << 20);
    // From, to, length: whole vectors, words, bytes, and nothing; apart from each other at the target.
    let runs = [
        (0, 4096, 4096),
        (16, 16, 64),
        (20, 9000, 52),
        (1001, 10_001, 333),
        (5, 12_000, 16),
        (64, 13_000, 0),
        (100_000, 100_000, 28_672),
    ];
    for (blocks, threads) in [(1, 1), (3, 4), (64, 128)] {
        let (mut target, mut expected) = (vec![0xee_u8; 1 << 20], vec![0xee_u8; 1 << 20]);
        let base = target.as_mut_ptr() as u64;
        let list: Vec<Run> = runs
            .iter()
            .map(|&(from, to, length)| Run {
                from: source.as_ptr() as u64 + from as u64,
                to: base + to as u64,
                bytes: length as u64,
            })
            .collect();
        for &(from, to, length) in &runs {
            expected[to..to + length].copy_from_slice(&source[from..from + length]);
        }
        // SAFETY: the list is as long as is said; the runs lie in both buffers.
        unsafe { launch(list.as_ptr(), list.len() as u32, blocks, threads) };
        assert!(target == expected, "{blocks} blocks of {threads} threads");
    }
}
