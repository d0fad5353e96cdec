//! Settings of the engine on cuFile.

use std::path::PathBuf;

use hicache_core::{Error, Result};

use crate::checksum::DeviceChecksums;

/// How operations are handed to cuFile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Each with a synchronous call, by as many threads as shall be in flight.
    Threads,
    /// Up to `depth` with one call, by each thread. Library 1.19.1 mixed batches up and crashed, so this is for those who
    /// have seen it work.
    Batches {
        /// Most operations in a batch.
        depth: usize,
    },
}

/// What the engine is opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CuFileConfig {
    /// Where cuFile's library is; `None` for the one that the system's loader finds.
    pub library: Option<PathBuf>,
    /// How many threads.
    pub threads: usize,
    /// How operations are handed over.
    pub calls: Calls,
    /// Whether memory is registered with cuFile. Memory that is not goes through cuFile's own buffers.
    pub register_memory: bool,
    /// Takes memory of the host too, which cuFile copies. Of use in tests.
    pub host_memory: bool,
    /// Who sums pages in memory of the device.
    pub device_checksums: DeviceChecksums,
}

impl CuFileConfig {
    /// Most threads.
    pub const MAX_THREADS: usize = 256;
    /// Most operations in a batch.
    pub const MAX_DEPTH: usize = 256;

    /// Whether the settings make sense.
    ///
    /// # Errors
    /// `Config`, naming the field, the value and what would be right.
    pub fn validate(&self) -> Result<()> {
        let within = |field: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::config(format!("{field} = {value} is out of range; use 1 to {most}")))
        };
        within("threads", self.threads, Self::MAX_THREADS)?;
        match self.calls {
            Calls::Threads => Ok(()),
            Calls::Batches { depth } => within("depth", depth, Self::MAX_DEPTH),
        }
    }
}

impl Default for CuFileConfig {
    fn default() -> Self {
        Self {
            library: None,
            threads: 16,
            calls: Calls::Threads,
            register_memory: true,
            host_memory: false,
            device_checksums: DeviceChecksums::Auto,
        }
    }
}
