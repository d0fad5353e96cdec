//! Memory that cuFile knows.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hicache_core::{Error, ErrorKind, Region, Result};

use super::abi::CU_FILE_MEMORY_ALREADY_REGISTERED;
use super::driver::Driver;
use super::status::check;
use crate::CUFILE;
use crate::cuda::Context;

/// A region that is registered. Operations on it name its start and an offset from there.
pub struct Buffer {
    driver: Arc<Driver>,
    /// Bound where it is undone, which may be on any thread.
    context: Option<Arc<Context>>,
    region: Arc<Region>,
}

/// What a driver has registered: how many bytes from a start, and who holds that.
pub(super) type Known = HashMap<usize, (usize, Weak<Buffer>)>;

/// How often a registration waits for an older one of the same start to be undone, a millisecond each.
const TRIES: u32 = 100;

impl Buffer {
    /// Makes a region known; `context` is the device whose memory it is. Regions with one start share a registration that is long enough for both.
    ///
    /// # Errors
    /// What cuFile answers: `NoSpace` where not so much can be pinned, `Config` for memory of another kind. `Busy` where
    /// the start is registered by somebody else, or for fewer bytes: then nobody knows when that is undone, or what lies
    /// behind its end, and operations shall name their own addresses.
    pub fn register(
        driver: &Arc<Driver>,
        context: Option<&Arc<Context>>,
        region: &Arc<Region>,
    ) -> Result<Arc<Self>> {
        if region.planes() > 1 {
            // A piece lies in one plane, so nobody could use it.
            return Err(Error::config(format!(
                "a region of {} planes has no single start; register one of one plane",
                region.planes()
            ))
            .with_backend(CUFILE));
        }
        for _ in 0..TRIES {
            if let Some(answer) = Self::try_register(driver, context, region) {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(busy("is being undone by another thread"))
    }

    /// `None` while an older registration is being undone.
    fn try_register(
        driver: &Arc<Driver>,
        context: Option<&Arc<Context>>,
        region: &Arc<Region>,
    ) -> Option<Result<Arc<Self>>> {
        let start = region.base().as_ptr() as usize;
        let mut known = driver.known();
        if let Some((bytes, buffer)) = known.get(&start) {
            let (bytes, buffer) = (*bytes, buffer.upgrade());
            // Before the buffer, which takes the lock where it is the last one.
            drop(known);
            let buffer = buffer?;
            return Some(match bytes >= region.bytes() {
                true => Ok(buffer),
                false => Err(busy(&format!("is for {bytes} bytes, and the region has {}", region.bytes()))),
            });
        }
        let base = region.base().as_ptr().cast_const().cast::<c_void>();
        // SAFETY: the region does not move, and is held until the registration is undone.
        let answer = unsafe { (driver.library().functions.buf_register)(base, region.bytes(), 0) };
        if answer.err == CU_FILE_MEMORY_ALREADY_REGISTERED {
            return Some(Err(busy("is somebody else's")));
        }
        if let Err(error) = check("cuFileBufRegister", answer) {
            return Some(Err(error));
        }
        let buffer = Arc::new(Self {
            driver: Arc::clone(driver),
            context: context.cloned(),
            region: Arc::clone(region),
        });
        known.insert(start, (region.bytes(), Arc::downgrade(&buffer)));
        Some(Ok(buffer))
    }
}

fn busy(why: &str) -> Error {
    let message = format!("cuFile has a registration of the same address, which {why}");
    Error::new(ErrorKind::Busy, message).with_backend(CUFILE)
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let base = self.region.base().as_ptr().cast_const().cast::<c_void>();
        let _bound = self.context.as_ref().map(|context| context.bind());
        // Until it is undone, nobody registers this start again.
        let mut known = self.driver.known();
        // SAFETY: registered by us under this address; operations of whoever shares it hold it, so none is in flight.
        let answer = unsafe { (self.driver.library().functions.buf_deregister)(base) };
        known.remove(&(base as usize));
        drop(known);
        if let Err(error) = check("cuFileBufDeregister", answer) {
            tracing::warn!(%error, "memory could not be made unknown to cuFile");
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("region", &self.region).finish_non_exhaustive()
    }
}
