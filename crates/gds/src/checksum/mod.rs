//! CRC-64/NVMe of pages in device memory, by a kernel.
//!
//! | module | what is there |
//! |---|---|
//! | [`parts`] | how a page is cut, and the same sum on the CPU |
//! | `summer` | [`Summer`]: runs the kernel |
//!
//! A page is cut in parts, a thread sums each from nothing, multiplies its sum by the power of x that stands for the bytes behind
//! it, and adds it to the page's. Source: `kernels/pages.cu`.

pub mod parts;
mod summer;

pub use summer::{Summed, Summer};
