//! The kernels of `kernels/pages.cu`.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::ffi::{c_uint, c_void};
use std::fmt;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;
use hicache_core::{Error, Result};

use super::context::Context;
use super::driver::check;
use super::stream::Queue;
use crate::GDS;
use crate::checksum::parts::Part;

/// What is checked in, with the 0 at its end that the driver looks for.
const PTX: &str = concat!(include_str!("../../kernels/pages.ptx"), "\0");
/// Threads of a block.
const THREADS: c_uint = 128;
/// Most blocks of a launch of runs; each then does several.
const MOST_BLOCKS: c_uint = 4096;

/// One run, as the kernel reads it: the fields of [`super::RawCopy`], with widths.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Where the bytes are.
    pub from: u64,
    /// Where they go.
    pub to: u64,
    /// How many.
    pub bytes: u64,
}

/// The kernels, loaded into one context.
pub struct Kernels {
    context: Arc<Context>,
    module: sys::CUmodule,
    copy_runs: sys::CUfunction,
    sum_parts: sys::CUfunction,
}

// SAFETY: handles that any thread may use; the module is unloaded once, at the end.
unsafe impl Send for Kernels {}
// SAFETY: as above.
unsafe impl Sync for Kernels {}

impl Kernels {
    /// Has the driver make machine code of them; a driver older than 12.1 can't.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn load(context: &Arc<Context>) -> Result<Self> {
        let _bound = context.bind()?;
        let mut module: sys::CUmodule = ptr::null_mut();
        // SAFETY: a context is bound; the text ends with a 0, and the driver keeps nothing of it.
        check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&raw mut module, PTX.as_ptr().cast()) })?;
        let mut kernels = Self {
            context: Arc::clone(context),
            module,
            copy_runs: ptr::null_mut(),
            sum_parts: ptr::null_mut(),
        };
        for (function, name) in
            [(&mut kernels.copy_runs, c"copy_runs"), (&mut kernels.sum_parts, c"sum_parts")]
        {
            // SAFETY: the module is loaded; it writes one handle.
            check("cuModuleGetFunction", unsafe {
                sys::cuModuleGetFunction(function, module, name.as_ptr())
            })?;
        }
        Ok(kernels)
    }

    /// Queues runs of bytes.
    ///
    /// # Errors
    /// What the driver answers.
    ///
    /// # Safety
    /// `runs` is the address, for the device, of `count` [`Run`]s. They and their bytes must be valid for the device until the
    /// stream is past them: memory of it, or pinned. Nobody may write what is read or touch what is written.
    pub unsafe fn copy_runs(&self, queue: &Queue, runs: u64, count: u32) -> Result<()> {
        let (mut runs, mut count) = (runs, count);
        let blocks = count.clamp(1, MOST_BLOCKS);
        let arguments = [(&raw mut runs).cast::<c_void>(), (&raw mut count).cast()];
        // SAFETY: the arguments are those of the kernel; the rest is the caller's promise.
        unsafe { self.launch(self.copy_runs, blocks, queue, &arguments) }
    }

    /// Queues sums of parts.
    ///
    /// # Errors
    /// What the driver answers.
    ///
    /// # Safety
    /// As [`Kernels::copy_runs`], for `count` [`Part`]s, for tables of 256 and 64 numbers, and for a sum for each page. The bytes of
    /// a part may be written meanwhile where nobody looks at the sum.
    pub unsafe fn sum_parts(
        &self,
        queue: &Queue,
        parts: u64,
        count: u32,
        table: u64,
        powers: u64,
        sums: u64,
    ) -> Result<()> {
        const _: () = assert!(size_of::<Part>() == 32 && size_of::<Run>() == 24);
        let (mut parts, mut count, mut table, mut powers, mut sums) = (parts, count, table, powers, sums);
        let arguments = [
            (&raw mut parts).cast::<c_void>(),
            (&raw mut count).cast(),
            (&raw mut table).cast(),
            (&raw mut powers).cast(),
            (&raw mut sums).cast(),
        ];
        // SAFETY: as in `copy_runs`.
        unsafe { self.launch(self.sum_parts, count.div_ceil(THREADS).max(1), queue, &arguments) }
    }

    /// # Safety
    /// The arguments must be those of the function, and what they point to valid until the stream is past the launch.
    unsafe fn launch(
        &self,
        function: sys::CUfunction,
        blocks: c_uint,
        queue: &Queue,
        arguments: &[*mut c_void],
    ) -> Result<()> {
        if !Arc::ptr_eq(&self.context, queue.context()) {
            return Err(Error::config("the kernels are loaded into another context").with_backend(GDS));
        }
        let _bound = self.context.bind()?;
        let mut arguments = arguments.to_vec();
        // SAFETY: the driver reads the arguments during the call; the rest is the caller's promise.
        check("cuLaunchKernel", unsafe {
            sys::cuLaunchKernel(
                function,
                blocks,
                1,
                1,
                THREADS,
                1,
                1,
                0,
                queue.raw(),
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        })
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if let Ok(_bound) = self.context.bind() {
            // SAFETY: loaded by us; whoever launched has waited. A code would help nobody.
            let _ = unsafe { sys::cuModuleUnload(self.module) };
        }
    }
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernels").field("context", &self.context).finish_non_exhaustive()
    }
}
