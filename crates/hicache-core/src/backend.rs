//! What a build offers, and whether it works on this machine.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use crate::engine::{Direction, Engine, Extent, ExtentsDone};
use crate::error::{Error, ErrorKind, Result};
use crate::namespace::Namespace;
use crate::region::{Access, MemoryKind, Region};
use crate::storage::Storage;

/// What a backend provides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offer {
    /// An [`Engine`], for the page store to stand on.
    Engine,
    /// A [`Storage`].
    Storage,
}

/// Whether a backend can be used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Bytes were moved and compared.
    Usable,
    /// It can't be used; the report says why.
    Unavailable,
}

/// One thing that a probe tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was tried, in a few words.
    pub name: String,
    /// Whether it worked. A backend may be usable although some check failed: then something is slower or missing.
    pub passed: bool,
    /// What was seen.
    pub detail: String,
}

impl Check {
    /// A check that passed.
    pub fn passed(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), passed: true, detail: detail.into() }
    }

    /// A check that failed.
    pub fn failed(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), passed: false, detail: detail.into() }
    }
}

/// What a probe is asked.
#[derive(Clone, Debug)]
pub struct ProbeContext {
    /// A directory in which the probe may make a temporary file: the storage directory, since the answer depends on
    /// its file system.
    pub directory: PathBuf,
    /// Kind of memory that is to be moved.
    pub memory: MemoryKind,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeReport {
    /// Name of the backend.
    pub backend: &'static str,
    /// What it provides.
    pub offer: Offer,
    /// Whether it can be used.
    pub verdict: Verdict,
    /// Why, in one line.
    pub reason: String,
    /// What was tried, in order.
    pub checks: Vec<Check>,
}

/// A backend of this build: a value that the facade lists. Making one costs nothing and opens nothing.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// Its name, as configuration and `hicache probe` spell it.
    fn name(&self) -> &'static str;

    /// What it provides.
    fn offer(&self) -> Offer;

    /// One line for people.
    fn summary(&self) -> &'static str;

    /// Moves real bytes and says what happened. Never fails: what goes wrong is in the report.
    async fn probe(&self, context: &ProbeContext) -> ProbeReport;

    /// Opens the engine.
    ///
    /// # Errors
    /// `Unavailable` with the reason; `Unsupported` if the backend provides none.
    fn open_engine(&self) -> Result<Arc<dyn Engine>> {
        Err(Error::new(ErrorKind::Unsupported, format!("{} provides no engine", self.name())))
    }

    /// Opens the storage for one namespace.
    ///
    /// # Errors
    /// `Unavailable` with the reason; `Unsupported` if the backend provides none.
    async fn open_storage(&self, namespace: &Namespace) -> Result<Arc<dyn Storage>> {
        let _ = namespace;
        Err(Error::new(ErrorKind::Unsupported, format!("{} provides no storage", self.name())))
    }
}

const _: Option<&dyn Backend> = None; // The trait is dyn-compatible.

/// Moves two pages through an engine and a file, and compares every byte: the part of a probe that all engines share.
/// The caller makes the file (empty, readable and writable) and removes it.
///
/// # Errors
/// What went wrong first; the message says at which step.
pub async fn round_trip(engine: &dyn Engine, file: Arc<File>, path: &Path) -> Result<Check> {
    const PAGE: usize = 64 << 10;
    let region = Region::allocate(4, PAGE)?;
    let registration = engine.register(&region)?;
    let file = engine.attach(file, path)?;
    let extent = |slot: usize, page: usize, access| -> Result<Extent> {
        let memory = registration.page(slot, PAGE, access)?;
        Ok(Extent { file: file.clone(), offset: (page * PAGE) as u64, memory })
    };
    // The pages differ and are written in one batch, so that an engine that mixes offsets up is found out.
    let mut written = vec![extent(0, 0, Access::Write)?, extent(1, 1, Access::Write)?];
    for (page, extent) in written.iter_mut().enumerate() {
        for piece in extent.memory.bytes_mut() {
            for (i, byte) in piece?.iter_mut().enumerate() {
                *byte = (i as u8) ^ (i >> 8) as u8 ^ (page as u8 + 1);
            }
        }
    }
    let written = complete(engine.submit(Direction::Write, written).await, PAGE, "write")?;
    // Read in the other order.
    let read = vec![extent(2, 1, Access::Write)?, extent(3, 0, Access::Write)?];
    let read = complete(engine.submit(Direction::Read, read).await, PAGE, "read")?;
    let sums = |extents: &[Extent]| extents.iter().map(|e| e.memory.checksum()).collect::<Result<Vec<u64>>>();
    let (mut expected, actual) = (sums(&written)?, sums(&read)?);
    expected.reverse();
    if expected != actual {
        return Err(Error::new(ErrorKind::Corrupt, "the bytes read are not the bytes written"));
    }
    Ok(Check::passed("write, read, compare", format!("2 pages of {PAGE} bytes")))
}

fn complete(done: ExtentsDone, page: usize, operation: &'static str) -> Result<Vec<Extent>> {
    for outcome in done.outcomes {
        let bytes = outcome?;
        if bytes != page as u64 {
            return Err(Error::new(ErrorKind::Io, "short transfer")
                .with_operation(operation)
                .with_bytes(page as u64, bytes));
        }
    }
    let lost = || Error::new(ErrorKind::Abandoned, "an operation was lost").with_operation(operation);
    done.extents.into_iter().map(|extent| extent.ok_or_else(lost)).collect()
}
