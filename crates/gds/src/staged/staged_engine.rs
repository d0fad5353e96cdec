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

use super::config::StagedConfig;
use super::copier::Copier;
use super::lane_work::{FileToken, Lanes};
use super::sums::Sums;
use crate::STAGED;
use crate::checksum::ChecksumCounts;
use crate::jobs::{Admission, Cut, admit};
use crate::pool::Pool;

/// Most pieces of memory in an extent; each is a copy.
const MOST_PIECES: usize = 1024;

/// Moves extents between files and memory that the CPU can't reach, through staging memory and another engine.
pub struct StagedEngine {
    config: StagedConfig,
    owner: OwnerId,
    capabilities: EngineCapabilities,
    below: Arc<dyn Engine>,
    pool: Pool,
    sums: Sums,
}

impl StagedEngine {
    /// Starts the lanes over `below`, an engine for host memory of its own: [`Engine::close`] closes it too.
    ///
    /// # Errors
    /// `Config` for a bad setting or an engine that moves no such memory, `NoSpace` where staging can't be had, `Unavailable`.
    pub fn open(below: Arc<dyn Engine>, copier: Arc<dyn Copier>, config: StagedConfig) -> Result<Self> {
        config.validate()?;
        let under = below.capabilities().clone();
        if !config.slot_bytes.is_multiple_of(under.alignment) {
            return Err(Error::config(format!(
                "slot_bytes = {} is no multiple of the {} bytes that {} needs",
                config.slot_bytes, under.alignment, under.name
            )));
        }
        let (memory, proves_idle) = (copier.memory(), copier.proves_idle());
        let sums = Sums::new(Arc::clone(&copier), config.device_checksums);
        let work = Lanes { below: Arc::clone(&below), copier, config: config.clone() };
        let pool = Pool::start(STAGED, config.lanes, Arc::new(work))?;
        tracing::info!(
            through = under.name,
            staging_bytes = config.staging_bytes(),
            "pages go between files and {memory:?} through host memory"
        );
        Ok(Self {
            owner: OwnerId::new(),
            capabilities: EngineCapabilities {
                name: STAGED,
                alignment: under.alignment,
                max_pieces: MOST_PIECES,
                max_extent_bytes: i64::MAX as u64,
                max_in_flight: config.lanes * config.slots,
                memory: vec![memory],
                completes: Completes::PerOperation,
                reports_lengths: under.reports_lengths,
                proves_idle,
            },
            below,
            pool,
            sums,
            config,
        })
    }

    /// Who has summed pages of the device so far.
    pub fn checksum_counts(&self) -> ChecksumCounts {
        self.sums.counts()
    }

    fn cut(&self) -> Cut {
        let most = usize::try_from(self.below.capabilities().max_extent_bytes).unwrap_or(usize::MAX);
        let alignment = self.capabilities.alignment;
        let most_bytes = self.config.slot_bytes.min(most / alignment * alignment);
        Cut { most_bytes, pieces_apart: false }
    }
}

#[async_trait]
impl Engine for StagedEngine {
    fn capabilities(&self) -> &EngineCapabilities {
        &self.capabilities
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.pool.shared().check_open()?;
        let own = self.capabilities.memory[0];
        if region.kind() != own && !(own == MemoryKind::Host && region.kind().is_host()) {
            let message = format!("{STAGED} moves memory of {own:?} here, not {:?}", region.kind());
            return Err(Error::new(ErrorKind::Unsupported, message).with_backend(STAGED));
        }
        Ok(Registration::new(self.owner, Arc::clone(region), Box::new(())))
    }

    fn attach(&self, file: Arc<File>, path: &Path) -> Result<EngineFile> {
        self.pool.shared().check_open()?;
        let below = self.below.attach(Arc::clone(&file), path)?;
        Ok(EngineFile::new(self.owner, file, Box::new(FileToken(below))))
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
        self.sums.sum(memory)
    }

    async fn close(&self) -> Result<()> {
        self.pool.close().await;
        // Nothing of ours is there any more; where it is lost, that is what the engine below answers.
        let closed = self.below.close().await;
        // Last: the engine below may have had staging memory until now.
        self.sums.end().await;
        closed
    }
}

impl fmt::Debug for StagedEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StagedEngine")
            .field("config", &self.config)
            .field("below", &self.below)
            .finish_non_exhaustive()
    }
}
