//! The GPUs whose memory Python hands over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hicache::gds::{Context, Cuda};
use hicache::{MemoryKind, PageRequest, Result};

/// How long a store that is closed waits until nothing of it is with the driver.
const LONGEST: Duration = Duration::from_secs(1);

/// The contexts of a store, by number of the device; each opened when the first memory of it comes.
#[derive(Default)]
pub(crate) struct Devices(Mutex<BTreeMap<u32, Arc<Context>>>);

impl Devices {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Context>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The context of a device: its primary one, in which PyTorch and the CUDA runtime have their memory too.
    pub(crate) fn context(&self, device: u32) -> Result<Arc<Context>> {
        let mut contexts = self.lock();
        if let Some(context) = contexts.get(&device) {
            return Ok(Arc::clone(context));
        }
        let context = Cuda::load()?.context(device)?;
        contexts.insert(device, Arc::clone(&context));
        Ok(context)
    }

    /// Waits until the devices that pages of `requests` are on have done all that this process has asked of them, in whatever
    /// stream: a kernel that was started before the call may still write what is to be stored, or write over what is loaded.
    pub(crate) fn wait_for(&self, requests: &[PageRequest]) -> Result<()> {
        if self.lock().is_empty() {
            return Ok(()); // No memory of a device was ever registered.
        }
        let pieces = requests.iter().flat_map(|request| request.memory.pieces());
        let on = |kind| if let MemoryKind::Device(device) = kind { Some(device) } else { None };
        let devices: BTreeSet<u32> =
            pieces.filter_map(|piece| on(piece.registration().region().kind())).collect();
        devices.into_iter().try_for_each(|device| self.context(device)?.synchronize())
    }

    /// Gives the contexts up. As a process ends the driver goes too, and nothing of ours may call it then.
    pub(crate) fn end(&self) {
        let contexts = std::mem::take(&mut *self.lock());
        for (device, context) in contexts {
            if let Err(error) = context.end(LONGEST) {
                tracing::warn!(%error, device, "the device is still in use");
            }
        }
    }
}
