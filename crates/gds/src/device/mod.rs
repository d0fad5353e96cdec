//! Memory of a GPU as the controller's device.
//!
//! | module | what is there |
//! |---|---|
//! | `cuda_device` | [`CudaDevice`] |
//! | `device_stream` | a stream: one thread that queues copies, one that waits for them |
//! | `run_kernel` | short runs, copied by a kernel for as long as it is right |
//! | `run_trial` | whether it is, on the device that is there |
//! | `runs` | which bytes a step of a copy plan moves, run by run |

mod cuda_device;
mod device_stream;
mod run_kernel;
mod run_trial;
mod runs;

#[cfg(test)]
mod runs_tests;

pub use cuda_device::{CudaDevice, ShortCopies};
