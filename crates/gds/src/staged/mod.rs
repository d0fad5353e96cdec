//! The engine for machines where cuFile can't be used: pages go through staging memory of the host.
//!
//! Another engine moves bytes between files and the staging, a [`Copier`] between the staging and the callers' memory. While
//! one lane reads, another copies.
//!
//! | module | what is there |
//! |---|---|
//! | `copier` | [`Copier`], [`Lane`]; [`HostCopier`], which has host memory stand in for a device's |
//! | `cuda_copier` | [`CudaCopier`] |
//! | `config` | [`StagedConfig`] |
//! | `lane_work` | what a lane does with the parts that it has taken |
//! | `staged_engine` | [`StagedEngine`] |
//! | `sums` | [`Sums`]: checksums of pages that the CPU can't read, by a kernel or through staging memory |

mod config;
mod copier;
mod cuda_copier;
mod lane_work;
mod staged_engine;
mod sums;

#[cfg(test)]
mod staged_tests;

pub use config::StagedConfig;
pub use copier::{Copier, CopyFailure, HostCopier, Lane, StagedCopy};
pub use cuda_copier::CudaCopier;
pub use staged_engine::StagedEngine;
pub use sums::Sums;
