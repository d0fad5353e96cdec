//! The primary context of one device, and what frees its memory without blocking.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::ffi::{c_char, c_int, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cudarc::driver::sys;
use hicache_core::{Error, ErrorKind, ForkMark, Result};
use tokio::sync::oneshot;

use super::driver::{Cuda, check, failure};
use crate::GDS;

/// Longest name of a device.
const NAME_BYTES: usize = 256;

/// The context itself; released when nothing of it is left.
struct Primary {
    device: sys::CUdevice,
    raw: sys::CUcontext,
    fork: ForkMark,
}

// SAFETY: a context is a handle that any thread may bind.
unsafe impl Send for Primary {}
// SAFETY: as above.
unsafe impl Sync for Primary {}

impl Primary {
    fn check_fork(&self) -> Result<()> {
        if self.fork.is_child() {
            return Err(ForkMark::refusal("CUDA context").with_backend(GDS));
        }
        Ok(())
    }

    fn bind_thread(&self) -> Result<()> {
        self.check_fork()?;
        // SAFETY: retained, and not released before this is dropped.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.raw) })
    }

    fn bind(&self) -> Result<Bound> {
        self.check_fork()?;
        self.push().map_err(|code| failure("cuCtxPushCurrent", code))
    }

    fn push(&self) -> Result<Bound, u32> {
        // SAFETY: as above; whoever is given a `Bound` keeps what it was taken from.
        match unsafe { sys::cuCtxPushCurrent_v2(self.raw) } as u32 {
            0 => Ok(Bound(PhantomData)),
            code => Err(code),
        }
    }
}

/// While this lives a context is that of the calling thread; then the thread has again the one that it had.
#[must_use]
pub struct Bound(PhantomData<*const ()>);

impl Drop for Bound {
    fn drop(&mut self) {
        let mut popped: sys::CUcontext = ptr::null_mut();
        // SAFETY: pushed by this thread, which a `Bound` does not leave; it writes one handle. A code would help nobody.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&raw mut popped) };
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        if !self.fork.is_child() {
            // SAFETY: retained once, by us. A code would help nobody.
            let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
        }
    }
}

/// Memory to be freed.
enum Freed {
    Device(sys::CUdeviceptr),
    Host(*mut c_void),
    /// None: answered when all before it is freed.
    All(oneshot::Sender<()>),
}

// SAFETY: addresses, which one thread frees.
unsafe impl Send for Freed {}

/// One device of this process, with its primary context.
pub struct Context {
    cuda: Cuda,
    ordinal: u32,
    name: String,
    primary: Arc<Primary>,
    freeing: Sender<Freed>,
    frees: Frees,
}

/// The thread that frees memory.
struct Frees {
    thread: Option<JoinHandle<()>>,
    fork: ForkMark,
}

impl Frees {
    fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Frees {
    fn drop(&mut self) {
        if self.fork.is_child() {
            // Not ours to detach: it is a thread of the parent.
            std::mem::forget(self.thread.take());
        }
    }
}

impl Context {
    pub(super) fn open(cuda: Cuda, ordinal: u32) -> Result<Arc<Self>> {
        let number =
            c_int::try_from(ordinal).map_err(|_| Error::config(format!("no device has number {ordinal}")))?;
        let mut device: sys::CUdevice = 0;
        // SAFETY: the driver is initialised, which `Cuda` stands for; each call writes one value of this frame.
        let raw = unsafe {
            check("cuDeviceGet", sys::cuDeviceGet(&raw mut device, number))?;
            let mut raw: sys::CUcontext = ptr::null_mut();
            check("cuDevicePrimaryCtxRetain", sys::cuDevicePrimaryCtxRetain(&raw mut raw, device))?;
            raw
        };
        let primary = Arc::new(Primary { device, raw, fork: ForkMark::new() });
        let (freeing, graves) = channel();
        let own = Arc::clone(&primary);
        let work = move || free_all(&own, &graves);
        let thread = std::thread::Builder::new().name(format!("hicache-free{ordinal}")).spawn(work);
        let thread = thread.map_err(|source| {
            Error::new(ErrorKind::Unavailable, "no thread to free device memory")
                .with_backend(GDS)
                .with_source(source)
        })?;
        let frees = Frees { thread: Some(thread), fork: ForkMark::new() };
        let name = name_of(device);
        let context = Self { cuda, ordinal, name, primary, freeing, frees };
        // What can't be bound is said here.
        drop(context.bind()?);
        Ok(Arc::new(context))
    }

    /// Makes the context that of this thread, until what is answered is dropped: the thread may be the caller's, who has
    /// another device current. Every call that names a stream or memory needs it.
    ///
    /// # Errors
    /// `Closed` in a forked child, where CUDA does not work; what the driver answers.
    pub fn bind(&self) -> Result<Bound> {
        self.primary.bind()
    }

    /// As [`Context::bind`], on a thread of our own, which no forked child has; with the driver's code.
    pub(super) fn push(&self) -> Result<Bound, u32> {
        self.primary.push()
    }

    /// Makes the context that of this thread for good; for threads of our own.
    ///
    /// # Errors
    /// As [`Context::bind`].
    pub fn bind_thread(&self) -> Result<()> {
        self.primary.bind_thread()
    }

    /// Number of the device, as this process counts.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// What the device is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The driver.
    pub fn cuda(&self) -> Cuda {
        self.cuda
    }

    /// An attribute of the device.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn attribute(&self, attribute: sys::CUdevice_attribute) -> Result<i32> {
        let mut value: c_int = 0;
        // SAFETY: it writes one integer.
        check("cuDeviceGetAttribute", unsafe {
            sys::cuDeviceGetAttribute(&raw mut value, attribute, self.primary.device)
        })?;
        Ok(value)
    }

    /// Waits until the device has done everything that this process has queued in the context.
    ///
    /// # Errors
    /// What went wrong in any of that.
    pub fn synchronize(&self) -> Result<()> {
        let _bound = self.bind()?;
        // SAFETY: a context is bound.
        check("cuCtxSynchronize", unsafe { sys::cuCtxSynchronize() })
    }

    /// Waits until memory that nobody uses any more is freed. Engines do so as they close: a program that ends after that has
    /// none of it with the driver.
    pub async fn all_freed(&self) {
        if self.primary.fork.is_child() {
            return; // The thread that would answer is the parent's.
        }
        let (freed, all) = oneshot::channel();
        let _ = self.freeing.send(Freed::All(freed));
        let _ = all.await; // Without the thread there is nothing to wait for.
    }

    /// Waits until everything that uses the context is gone and its memory is freed, and ends what frees it. To be called before
    /// a process ends: as it ends the driver goes too, and a thread that still calls it then may take the process along.
    /// Engines are to be closed before.
    ///
    /// # Errors
    /// `Timeout` if something still uses it after `longest`; `Closed` in a forked child.
    pub fn end(self: Arc<Self>, longest: Duration) -> Result<()> {
        self.primary.check_fork()?;
        let until = Instant::now() + longest;
        let wait = |what: &str| {
            if Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
                return Ok(());
            }
            let message =
                format!("after {longest:?} {what}; close engines, and drop streams and regions, before");
            Err(Error::new(ErrorKind::Timeout, message).with_backend(GDS))
        };
        let mut shared = self;
        let Self { primary, freeing, frees, .. } = loop {
            match Arc::try_unwrap(shared) {
                Ok(own) => break own,
                Err(still) => shared = still,
            }
            wait("streams or engines still use the device")?;
        };
        // One is the freeing thread's; each allocation has one.
        while Arc::strong_count(&primary) > 2 {
            wait("memory of the device is still in use")?;
        }
        drop(freeing);
        while !frees.is_finished() {
            wait("memory of the device is still being freed")?;
        }
        Ok(())
    }

    pub(super) fn owner_of_device(&self, address: sys::CUdeviceptr) -> Owner {
        Owner {
            freed: Some(Freed::Device(address)),
            primary: Arc::clone(&self.primary),
            freeing: self.freeing.clone(),
        }
    }

    pub(super) fn owner_of_host(&self, address: *mut c_void) -> Owner {
        Owner {
            freed: Some(Freed::Host(address)),
            primary: Arc::clone(&self.primary),
            freeing: self.freeing.clone(),
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("ordinal", &self.ordinal)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Keeps one allocation. Dropping it hands the memory to a thread that frees it: the driver waits for the device there.
pub(super) struct Owner {
    freed: Option<Freed>,
    primary: Arc<Primary>,
    freeing: Sender<Freed>,
}

// SAFETY: it is only dropped, and that by one thread; the sender is used through `&mut self` alone.
unsafe impl Sync for Owner {}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(freed) = self.freed.take()
            && !self.primary.fork.is_child()
        {
            // Without its thread the process is at its end.
            let _ = self.freeing.send(freed);
        }
    }
}

fn free_all(primary: &Primary, graves: &Receiver<Freed>) {
    if let Err(error) = primary.bind_thread() {
        tracing::warn!(%error, "memory of the device will not be freed");
        return;
    }
    for freed in graves {
        // SAFETY: allocated by the call that belongs to this one; its owner is gone, so nobody has the address.
        let answer = unsafe {
            match freed {
                Freed::Device(address) => check("cuMemFree", sys::cuMemFree_v2(address)),
                Freed::Host(address) => check("cuMemFreeHost", sys::cuMemFreeHost(address)),
                Freed::All(freed) => {
                    let _ = freed.send(());
                    Ok(())
                }
            }
        };
        if let Err(error) = answer {
            tracing::warn!(%error, "memory could not be freed");
        }
    }
}

fn name_of(device: sys::CUdevice) -> String {
    let mut name = [0_u8; NAME_BYTES];
    // SAFETY: it writes at most so many bytes, with a 0 at the end.
    let answer =
        unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast::<c_char>(), NAME_BYTES as c_int - 1, device) };
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(0);
    match check("cuDeviceGetName", answer) {
        Ok(()) => String::from_utf8_lossy(&name[..end]).into_owned(),
        Err(_) => "unnamed".to_owned(),
    }
}
