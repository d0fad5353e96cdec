//! A stream, and a point in one.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::ffi::c_uint;
use std::fmt;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;
use hicache_core::{Error, Result};

use super::context::Context;
use super::driver::{check, check_code, is_gone};

/// Does not wait for the stream that has no name.
const NON_BLOCKING: c_uint = 1;
/// Who waits sleeps; no time is taken.
const BLOCKING_WITHOUT_TIMING: c_uint = 1 | 2;

/// Whether anything of a stream still moves.
#[derive(Debug)]
pub(crate) enum Idle {
    /// Nothing.
    Yes,
    /// Its context is gone, and with that whatever lies in memory of the device: nobody sees what moves there.
    Gone(Error),
    /// The driver does not say.
    Unknown(Error),
}

/// A stream: work in order.
pub struct Queue {
    context: Arc<Context>,
    raw: sys::CUstream,
}

// SAFETY: CUDA's streams may be used by any thread.
unsafe impl Send for Queue {}
// SAFETY: as above; calls on one stream from several threads are put in some order.
unsafe impl Sync for Queue {}

impl Queue {
    /// A new stream.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        let _bound = context.bind()?;
        let mut raw: sys::CUstream = ptr::null_mut();
        // SAFETY: a context is bound; it writes one handle.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&raw mut raw, NON_BLOCKING) })?;
        Ok(Self { context: Arc::clone(context), raw })
    }

    /// Its context.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Waits until everything that was queued is done.
    ///
    /// # Errors
    /// What went wrong in any of that.
    pub fn synchronize(&self) -> Result<()> {
        let _bound = self.context.bind()?;
        // SAFETY: the stream is there, and its context bound.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.raw) })
    }

    /// As [`Queue::synchronize`], for who must know whether everything is over.
    pub(crate) fn idle(&self) -> Idle {
        let answer = match self.context.push() {
            // SAFETY: as in `synchronize`.
            Ok(_bound) => unsafe { sys::cuStreamSynchronize(self.raw) as u32 },
            Err(code) => code,
        };
        match check_code("cuStreamSynchronize", answer) {
            Ok(()) => Idle::Yes,
            Err(error) if is_gone(answer) => Idle::Gone(error),
            Err(error) => Idle::Unknown(error),
        }
    }

    /// A point behind everything that was queued.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn mark(&self) -> Result<Mark> {
        let _bound = self.context.bind()?;
        let mut raw: sys::CUevent = ptr::null_mut();
        // SAFETY: a context is bound; it writes one handle.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut raw, BLOCKING_WITHOUT_TIMING) })?;
        let mark = Mark { context: Arc::clone(&self.context), raw };
        // SAFETY: both are there, and of one context.
        check("cuEventRecord", unsafe { sys::cuEventRecord(mark.raw, self.raw) })?;
        Ok(mark)
    }

    /// Lets later work wait for a point of another stream.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn wait_for(&self, mark: &Mark) -> Result<()> {
        let _bound = self.context.bind()?;
        // SAFETY: both are there. The driver keeps what it needs of the event when that is dropped before.
        check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(self.raw, mark.raw, 0) })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if let Ok(_bound) = self.context.bind() {
            // SAFETY: made by us, and nobody has it any more. What is queued is done all the same. A code would help nobody.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.raw) };
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("context", &self.context).finish_non_exhaustive()
    }
}

/// A point in a stream.
pub struct Mark {
    context: Arc<Context>,
    raw: sys::CUevent,
}

// SAFETY: CUDA's events may be used by any thread.
unsafe impl Send for Mark {}
// SAFETY: as above.
unsafe impl Sync for Mark {}

impl Mark {
    /// Waits until everything before it is done.
    ///
    /// # Errors
    /// What went wrong in any of that.
    pub fn wait(&self) -> Result<()> {
        let _bound = self.context.bind()?;
        // SAFETY: the event is there, and its context bound.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.raw) })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Ok(_bound) = self.context.bind() {
            // SAFETY: made by us, and nobody has it any more.
            let _ = unsafe { sys::cuEventDestroy_v2(self.raw) };
        }
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mark").field("context", &self.context).finish_non_exhaustive()
    }
}
