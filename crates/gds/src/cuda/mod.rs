//! CUDA's driver API, through `cudarc`, which looks for `libcuda.so.1` when it is first asked.
//!
//! | module | what is there |
//! |---|---|
//! | [`driver`] | [`Cuda`]: whether there is a driver, and how many devices it has |
//! | [`context`] | [`Context`]: the primary context of one device; what frees memory without blocking |
//! | [`memory`] | regions of device memory, of pinned host memory, of memory that somebody else allocated |
//! | [`stream`] | [`Queue`], [`Mark`]: a stream and a point in one |
//! | [`kernels`] | the kernels of `kernels/pages.cu`: short copies, checksums |
//! | [`copies`] | [`RawCopy`]: many copies with as few calls as the driver allows |
//! | `trial_bytes` | known bytes to a device and back, for trials of the kernels |
//!
//! `cudarc`'s functions panic where the library is missing, so nothing is called before [`Cuda::load`] has looked, and nothing
//! that an old driver lacks before its version is known.

pub mod context;
pub mod copies;
pub mod driver;
pub mod kernels;
pub mod memory;
pub mod stream;
pub(crate) mod trial_bytes;

pub use context::{Bound, Context};
pub use copies::RawCopy;
pub use driver::Cuda;
pub use stream::{Mark, Queue};
