//! Who sums pages in memory of a device.

use std::fmt;

/// Who sums pages in memory of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChecksums {
    /// A kernel on the device, where it has summed known pages as the CPU does, until it fails; else as [`Self::Never`].
    #[default]
    Auto,
    /// The CPU: pages are copied to pinned memory for it.
    Never,
}

/// Who has summed the pages of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChecksumCounts {
    /// Pages that the kernel has summed on the device.
    pub by_kernel: u64,
    /// Pages of the device that were copied to pinned memory and summed there.
    pub through_host: u64,
    /// Why the kernel is not used, or not any more; `None` while it is.
    pub without_kernel: Option<String>,
}

impl fmt::Display for ChecksumCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.without_kernel {
            None => f.write_str("by the kernel")?,
            Some(reason) => write!(f, "through pinned memory ({reason})")?,
        }
        write!(f, ": {} by the kernel, {} through pinned memory", self.by_kernel, self.through_host)
    }
}
