//! Processes that have the library that stands in for libcuda: it fails calls on demand, has kernels that are wrong, counts, and
//! ends a process where a forked child calls it.
//!
//! The tests that are ignored run in those processes.

#![allow(dead_code, reason = "each test has its part of it")]

use std::ffi::{CString, c_char, c_long, c_uint};
use std::process::Command;
use std::sync::Arc;

use hicache_core::{Access, OwnerId, Region, Registration};
use hicache_gds::cuda::copies::Copying;
use hicache_gds::cuda::{Queue, RawCopy};
use hicache_gds::{Context, Cuda, CudaCopier, StagedConfig, StagedEngine};
use hicache_posix_uring::{PreadConfig, PreadEngine};

#[path = "../standins/mod.rs"]
mod standins;

pub(crate) const PAGE: usize = 8192;
/// What a test prints that has run.
const RAN: &str = "ran with the library that stands in";

/// Runs an ignored test of this program with the library, and with the one that stands in for cuFile's.
pub(crate) fn with_standin(test: &str) {
    let Some(library) = standins::cuda() else { return };
    let cufile = library.path().join("libcufile.so.0");
    assert!(standins::build("tests/standin_cufile/cufile.cpp", &cufile, &[]));
    let output = Command::new(std::env::current_exe().unwrap())
        .env_clear()
        .env("LD_LIBRARY_PATH", library.path())
        .args(["--ignored", "--exact", test, "--nocapture", "--test-threads", "1"])
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && text.contains(RAN), "{}: {text}", output.status);
}

/// In such a process: a context, and the library.
pub(crate) struct Ground {
    pub(crate) context: Arc<Context>,
    library: libloading::Library,
}

impl Ground {
    pub(crate) fn new() -> Option<Self> {
        let context = Cuda::load().and_then(|cuda| cuda.context(0)).ok()?;
        // SAFETY: the loader has it already, or there is none of this name.
        let library = unsafe { libloading::Library::new("libcuda.so") }.ok()?;
        // SAFETY: looked for, not called.
        let found = unsafe { library.get::<*const u8>(b"standin_fail\0") }.is_ok();
        println!("{}", if found { RAN } else { "went without: the library that stands in for CUDA's" });
        found.then_some(Self { context, library })
    }

    /// So many calls of this function fail; all from now on for -1.
    pub(crate) fn fail(&self, call: &str, times: i64, code: u32) {
        let name = CString::new(call).unwrap();
        // SAFETY: the function of this name in `tests/standin_cuda/cuda.cpp`; it copies the name.
        unsafe {
            let fail =
                self.library.get::<unsafe extern "C" fn(*const c_char, c_long, c_uint)>(b"standin_fail\0");
            fail.unwrap()(name.as_ptr(), times, code);
        }
    }

    /// Memory of the device, registered with nobody.
    pub(crate) fn pages(&self, slots: usize) -> Registration {
        let region = self.context.allocate(1, slots, PAGE).unwrap();
        Registration::new(OwnerId::new(), region, Box::new(()))
    }

    /// What is wrong with the kernels from now on: a word of `tests/standin_cuda/cuda.cpp`.
    pub(crate) fn kernels_are(&self, what: &str) {
        let name = CString::new(what).unwrap();
        // SAFETY: as in `fail`.
        unsafe {
            let wrong = self.library.get::<unsafe extern "C" fn(*const c_char)>(b"standin_kernels\0");
            wrong.unwrap()(name.as_ptr());
        }
    }

    /// How often a function was called.
    pub(crate) fn calls(&self, call: &str) -> i64 {
        let name = CString::new(call).unwrap();
        // SAFETY: as in `fail`.
        unsafe {
            let calls = self.library.get::<unsafe extern "C" fn(*const c_char) -> c_long>(b"standin_calls\0");
            calls.unwrap()(name.as_ptr())
        }
    }

    /// Copies bytes to the start of a slot of the device.
    pub(crate) fn put(&self, device: &Arc<Region>, slot: usize, bytes: &[u8]) {
        let host = self.context.allocate_pinned(1, 1, bytes.len()).unwrap();
        let mut from = host.lease(0, 0, bytes.len(), Access::Write).unwrap();
        from.bytes_mut().unwrap().copy_from_slice(bytes);
        let to = device.lease(slot, 0, bytes.len(), Access::Write).unwrap();
        let copy = RawCopy { from: from.address() as u64, to: to.address() as u64, bytes: bytes.len() };
        let queue = Queue::new(&self.context).unwrap();
        // SAFETY: both are leased until the stream is past the copy.
        unsafe { Copying::one_by_one().queue(&queue, &[copy]) }.unwrap();
        queue.synchronize().unwrap();
    }

    /// An engine with one lane, over pread.
    pub(crate) fn staged(&self) -> StagedEngine {
        self.staged_with(StagedConfig { lanes: 1, slots: 2, slot_bytes: PAGE, ..StagedConfig::default() })
    }

    pub(crate) fn staged_with(&self, config: StagedConfig) -> StagedEngine {
        let below = Arc::new(PreadEngine::open(PreadConfig::default()).unwrap());
        let copier = Arc::new(CudaCopier::new(Arc::clone(&self.context)));
        StagedEngine::open(below, copier, config).unwrap()
    }
}
