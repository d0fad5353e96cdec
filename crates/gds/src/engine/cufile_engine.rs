//! The engine: batches in, transfers out.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use hicache_core::{
    Completes, Direction, Engine, EngineCapabilities, EngineFile, Error, ErrorKind, Extent, ExtentsDone,
    MemoryKind, OwnerId, PageMemory, Region, Registration, Result, Transfer,
};

use super::config::{Calls, CuFileConfig};
use super::files;
use super::moves::{FileToken, MemoryToken, Moves};
use crate::CUFILE;
use crate::checksum::ChecksumCounts;
use crate::cuda::Context;
use crate::cufile::{Buffer, Driver};
use crate::jobs::{Admission, Cut, admit};
use crate::pool::{Kept, Pool};
use crate::staged::{CudaCopier, Sums};

/// Offsets, lengths and addresses are multiples of this. For others cuFile reads what is around them and writes it back, which
/// would undo what a neighbour wrote meanwhile.
const ALIGNMENT: usize = 4096;
/// Most pieces of memory in an extent; each is a call.
const MOST_PIECES: usize = 1024;

/// Moves extents between files and memory of one device through cuFile.
///
/// Where the driver knows no better way than its compatibility mode, that is not GPUDirect: cuFile copies through host memory
/// then, as [`crate::staged`] does. [`Driver::properties`] says which it is.
pub struct CuFileEngine {
    config: CuFileConfig,
    owner: OwnerId,
    capabilities: EngineCapabilities,
    driver: Arc<Driver>,
    /// cuFile's calls need one on the thread that makes them.
    context: Option<Arc<Context>>,
    pool: Pool,
    /// cuFile sums nothing.
    sums: Option<Sums>,
}

impl CuFileEngine {
    /// Starts the threads. `context` is the device whose memory is moved; without one only memory of the host is.
    ///
    /// # Errors
    /// `Config` for a bad setting, `Unavailable` where threads can't be had, `Unsupported` where batches can't.
    pub fn open(driver: Arc<Driver>, context: Option<Arc<Context>>, config: CuFileConfig) -> Result<Self> {
        config.validate()?;
        let mut memory: Vec<_> =
            context.iter().map(|context| MemoryKind::Device(context.ordinal())).collect();
        if config.host_memory {
            memory.extend([MemoryKind::Host, MemoryKind::PinnedHost]);
        }
        if memory.is_empty() {
            let message =
                "an engine on cuFile without a device moves nothing; give it a device, or host_memory";
            return Err(Error::config(message).with_backend(CUFILE));
        }
        let (in_flight, proves_idle) = match config.calls {
            Calls::Threads => (config.threads, true),
            Calls::Batches { depth } => (config.threads * depth, false),
        };
        let work = Moves { driver: Arc::clone(&driver), context: context.clone(), calls: config.calls };
        Ok(Self {
            owner: OwnerId::new(),
            capabilities: EngineCapabilities {
                name: CUFILE,
                alignment: ALIGNMENT,
                max_pieces: MOST_PIECES,
                max_extent_bytes: i64::MAX as u64,
                max_in_flight: in_flight,
                memory,
                completes: Completes::PerOperation,
                reports_lengths: true,
                proves_idle,
            },
            pool: Pool::start(CUFILE, config.threads, Arc::new(work))?,
            sums: context
                .clone()
                .map(|context| Sums::new(Arc::new(CudaCopier::new(context)), config.device_checksums)),
            driver,
            context,
            config,
        })
    }

    /// The driver that it stands on.
    pub fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// Whether cuFile has pinned the memory of a registration, so that it moves without a copy of cuFile's.
    pub fn is_registered(&self, registration: &Registration) -> bool {
        registration.token::<MemoryToken>().is_some_and(|token| token.0.is_some())
    }

    /// Who has summed pages of the device so far.
    pub fn checksum_counts(&self) -> ChecksumCounts {
        self.sums.as_ref().map(Sums::counts).unwrap_or_default()
    }

    fn cut(&self) -> Cut {
        // A batch has one address an operation.
        Cut { most_bytes: usize::MAX, pieces_apart: self.config.calls != Calls::Threads }
    }
}

#[async_trait]
impl Engine for CuFileEngine {
    fn capabilities(&self) -> &EngineCapabilities {
        &self.capabilities
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.pool.shared().check_open()?;
        // Not `moves`, for which any device stands for all: this engine has one.
        if !self.capabilities.memory.contains(&region.kind()) {
            let message = format!(
                "{CUFILE} moves memory of {:?} here, not {:?}",
                self.capabilities.memory,
                region.kind()
            );
            return Err(Error::new(ErrorKind::Unsupported, message).with_backend(CUFILE));
        }
        let mut token = MemoryToken(None);
        if self.config.register_memory {
            let _bound = self.context.as_ref().map(|context| context.bind()).transpose()?;
            match Buffer::register(&self.driver, self.context.as_ref(), region) {
                Ok(buffer) => token.0 = Some(Kept::new(buffer, self.pool.shared())),
                Err(error) => {
                    tracing::warn!(%error, bytes = region.bytes(), "cuFile does not pin the memory; it will copy instead");
                }
            }
        }
        Ok(Registration::new(self.owner, Arc::clone(region), Box::new(token)))
    }

    fn attach(&self, file: Arc<File>, path: &Path) -> Result<EngineFile> {
        self.pool.shared().check_open()?;
        let _bound = self.context.as_ref().map(|context| context.bind()).transpose()?;
        let handle = files::register(&self.driver, &file, path)?;
        let token = FileToken(Kept::new(Arc::new(handle), self.pool.shared()));
        Ok(EngineFile::new(self.owner, file, Box::new(token)))
    }

    fn submit(&self, direction: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        match admit(direction, extents, self.owner, &self.capabilities, self.cut()) {
            Admission::Answered(transfer) => transfer,
            Admission::Accepted(parts, transfer) => {
                self.pool.push(parts);
                transfer
            }
        }
    }

    fn checksum(&self, memory: &PageMemory) -> Result<u64> {
        self.pool.shared().check_open()?;
        self.sums.as_ref().map_or_else(|| memory.checksum(), |sums| sums.sum(memory))
    }

    async fn close(&self) -> Result<()> {
        self.pool.close().await;
        if let Some(sums) = &self.sums {
            sums.end().await;
        }
        Ok(())
    }
}

impl fmt::Debug for CuFileEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CuFileEngine")
            .field("config", &self.config)
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}
