//! Memory of a GPU as the controller's device.
//!
//! | module | what is there |
//! |---|---|
//! | `cuda_device` | [`CudaDevice`] |
//! | `device_stream` | a stream: one thread that queues copies, one that waits for them |
//! | `runs` | which bytes a step of a copy plan moves, run by run |

mod cuda_device;
mod device_stream;
mod runs;

#[cfg(test)]
mod runs_tests;

pub use cuda_device::CudaDevice;
