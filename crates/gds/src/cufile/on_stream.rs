//! Operations that a stream of CUDA does in its turn.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::ffi::{c_long, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use hicache_core::{Direction, Result};

use super::abi::CUstream;
use super::handle::Handle;
use super::status::{check, moved};

/// What the library reads when the operation's turn comes, and where it then writes the count.
struct Arguments {
    bytes: usize,
    offset: c_long,
    base_offset: c_long,
    moved: isize,
}

/// An operation in a stream. What the library reads and writes lives as long as the operation: dropped before it is over, it
/// leaves its arguments, and the file's handle, to the library for ever.
pub struct OnStream {
    arguments: Option<NonNull<Arguments>>,
    handle: Option<Arc<Handle>>,
    call: &'static str,
}

// SAFETY: the arguments are ours alone once the operation is over; before that nobody touches them.
unsafe impl Send for OnStream {}

impl OnStream {
    /// Queues a move behind the stream's earlier work.
    ///
    /// # Errors
    /// `Unsupported` where the library has no such call, and what cuFile answers; nothing is queued then.
    ///
    /// # Safety
    /// As [`Handle::transfer`], until the stream is past the operation. `stream` must be a stream of CUDA that lives as long.
    pub unsafe fn submit(
        handle: &Arc<Handle>,
        direction: Direction,
        base: *mut u8,
        base_offset: usize,
        bytes: usize,
        offset: u64,
        stream: CUstream,
    ) -> Result<Self> {
        let library = handle.driver().library();
        let (function, call) = match direction {
            Direction::Read => (library.functions.read_async, "cuFileReadAsync"),
            Direction::Write => (library.functions.write_async, "cuFileWriteAsync"),
        };
        let function = function.ok_or_else(|| library.lacks(call))?;
        let arguments =
            Arguments { bytes, offset: offset as c_long, base_offset: base_offset as c_long, moved: -1 };
        let raw = Box::into_raw(Box::new(arguments));
        // SAFETY: the four pointers are to the box, which is given to nobody else and freed when the operation is over; the
        // caller vouches for the memory and the stream.
        let answer = unsafe {
            function(
                handle.raw(),
                base.cast::<c_void>(),
                &raw mut (*raw).bytes,
                &raw mut (*raw).offset,
                &raw mut (*raw).base_offset,
                &raw mut (*raw).moved,
                stream,
            )
        };
        if let Err(error) = check(call, answer) {
            // SAFETY: from `Box::into_raw` above; the library refused the operation and keeps nothing of it.
            drop(unsafe { Box::from_raw(raw) });
            return Err(error);
        }
        Ok(Self { arguments: NonNull::new(raw), handle: Some(Arc::clone(handle)), call })
    }

    /// The bytes that were moved.
    ///
    /// # Errors
    /// The system's error, or cuFile's.
    ///
    /// # Safety
    /// The stream must be past the operation: an event that was recorded behind it is done, or the stream was waited for.
    pub unsafe fn finish(mut self) -> Result<u64> {
        let handle = self.handle.take();
        let count = self.arguments.take().map_or(-1, |arguments| {
            // SAFETY: from `Box::into_raw` in `submit`, taken once; the caller vouches that the library is done with it.
            unsafe { Box::from_raw(arguments.as_ptr()) }.moved
        });
        drop(handle);
        moved(self.call, count, || std::io::Error::other("the call tells no cause"))
    }
}

impl Drop for OnStream {
    fn drop(&mut self) {
        if self.arguments.is_some() {
            tracing::warn!(
                call = self.call,
                "an operation was dropped before it was over; its arguments stay"
            );
            std::mem::forget(self.handle.take());
        }
    }
}

impl fmt::Debug for OnStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnStream").field("call", &self.call).finish_non_exhaustive()
    }
}
