//! Pages between files and the memory of NVIDIA's GPUs.
//!
//! | module | what is there |
//! |---|---|
//! | [`cufile`] | cuFile, the library of GPUDirect Storage, bound by hand: driver, files, buffers, batches, streams |
//! | [`cuda`] | CUDA's driver: devices, memory of them, pinned memory, streams, copies |
//! | [`engine`] | [`CuFileEngine`]: an engine on cuFile |
//! | [`staged`] | [`StagedEngine`]: through staging memory and another engine, for where cuFile can't be used |
//! | [`device`] | [`CudaDevice`]: memory of a GPU as the controller's device |
//! | [`checksum`] | CRC-64/NVMe of pages in device memory, by a kernel |
//! | [`backend`] | [`GdsBackend`]: which engine a machine gets |
//! | [`probe`] | whether any of it works here, asked in a process of its own |
//! | `jobs`, `pool` | what becomes of each extent, and the threads: both engines have them |
//!
//! Nothing of NVIDIA's is needed to build it, and without a driver everything answers `Unavailable` with the reason.
//!
//! # Who owns memory while a device uses it
//!
//! Submitting moves the extents, and the leases in them, into a job. The job lets go of an extent when every part of it has
//! ended: a synchronous call has returned, a batch's operation was reported, a stream was waited for. What a library stops
//! answering for is never let go of.

pub mod backend;
pub mod checksum;
pub mod cuda;
pub mod cufile;
pub mod device;
pub mod engine;
pub mod probe;
pub mod staged;

mod jobs;
mod pool;

pub use backend::GdsBackend;
pub use checksum::{ChecksumCounts, DeviceChecksums, Summer};
pub use cuda::{Context, Cuda};
pub use cufile::{Driver, Library};
pub use device::{CudaDevice, ShortCopies};
pub use engine::{Calls, CuFileConfig, CuFileEngine};
pub use staged::{CudaCopier, HostCopier, StagedConfig, StagedEngine};

/// Name of the backend.
pub const GDS: &str = "gds";
/// Name of the engine on cuFile.
pub const CUFILE: &str = "gds-cufile";
/// Name of the engine that stages.
pub const STAGED: &str = "gds-staged";
