//! CRC-64/NVMe of pages in device memory, by a kernel.
//!
//! | module | what is there |
//! |---|---|
//! | [`parts`] | how a page is cut, and the same sum on the CPU |
//! | `summer` | [`Summer`]: runs the kernel |
//! | `trial` | whether the kernel sums as the CPU does, on the device that is there |
//! | `kernel_sums` | the kernel for several threads, for as long as it is right |
//! | `choice` | [`DeviceChecksums`]: who sums; [`ChecksumCounts`]: who did |
//!
//! A page is cut in parts, a thread sums each from nothing, multiplies its sum by the power of x that stands for the bytes behind
//! it, and adds it to the page's. Source: `kernels/pages.cu`.

mod choice;
mod kernel_sums;
pub mod parts;
mod summer;
mod trial;

pub use choice::{ChecksumCounts, DeviceChecksums};
pub(crate) use kernel_sums::KernelSums;
pub use summer::{Summed, Summer};
