//! `Store`: a storage with foreign memory, for any number of Python threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hicache::{
    Access, Error, ErrorKind, ListCursor, MemoryKind, Outcome, PageBatch, PageKey, PageRequest, PoolName,
    Result, Storage, StoreOptions, Transfer,
};
use pyo3::prelude::*;

use crate::errors::exception;
use crate::keys::{Keys, page_key};
use crate::memory::Memory;
use crate::regions::Regions;
use crate::{opening, records};

/// An open storage.
#[pyclass(frozen, module = "hicache._native")]
pub(crate) struct Store(Arc<Opened>);

struct Opened {
    storage: Arc<dyn Storage>,
    backend: &'static str,
    notes: Vec<String>,
    skipped: Vec<String>,
    memory: Memory,
    /// The GPU whose memory pages may be in.
    device: Option<u32>,
    /// The process that opened it. In a forked child nothing is touched: not even a lock, which may be held for ever.
    process: u32,
    /// An operation on foreign memory was lost: nothing more is begun.
    lost: AtomicBool,
}

/// What became of a batch.
#[pyclass(frozen, get_all, module = "hicache._native")]
pub(crate) struct Batch {
    /// Whether each page is done.
    done: Vec<bool>,
    /// Pages that were not there.
    absent: usize,
    /// Pages that failed.
    failed: usize,
    /// Bytes of the pages that are done.
    bytes: u64,
    /// Why the first of the failed pages failed.
    error: Option<String>,
}

/// The parts of a batch as Python gives them.
struct Pages {
    pool: PoolName,
    keys: Vec<String>,
    addresses: Vec<usize>,
    lengths: Vec<usize>,
    handles: Option<Vec<u64>>,
}

#[pymethods]
impl Store {
    /// Opens the storage of `settings` (a JSON object of configuration fields) for `namespace` (a JSON object).
    #[staticmethod]
    #[pyo3(signature = (settings, namespace=None, revision=None))]
    fn open(
        py: Python<'_>,
        settings: &str,
        namespace: Option<&str>,
        revision: Option<&str>,
    ) -> PyResult<Self> {
        records::keep_records();
        let config = opening::config(settings, namespace, revision).map_err(|error| exception(&error))?;
        let opened = py.detach(|| opening::open(&config)).map_err(|error| exception(&error))?;
        Ok(Self(Arc::new(Opened {
            storage: opened.storage,
            backend: opened.backend,
            notes: opened.notes,
            skipped: opened.skipped.iter().map(ToString::to_string).collect(),
            memory: Memory::default(),
            device: config.settings().device,
            process: std::process::id(),
            lost: AtomicBool::new(false),
        })))
    }

    /// Name of the backend.
    #[getter]
    fn backend(&self) -> &'static str {
        self.0.backend
    }

    /// Number of the GPU whose memory pages may be in, as well as in memory of the host.
    #[getter]
    fn device(&self) -> Option<u32> {
        self.0.device
    }

    /// What the operator should know.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.0.notes.clone()
    }

    /// Backends that were passed over, and why.
    #[getter]
    fn skipped(&self) -> Vec<String> {
        self.0.skipped.clone()
    }

    /// The namespace as JSON, and its fingerprint.
    fn namespace(&self) -> Option<(String, String)> {
        let namespace = self.0.storage.namespace()?;
        Some((serde_json::to_string(namespace).unwrap_or_default(), namespace.fingerprint().to_string()))
    }

    /// Makes `bytes` bytes at `address` known: memory of `device`, or of the host. `owner` must keep them there until it is
    /// dropped.
    #[pyo3(signature = (address, bytes, pinned, owner, device=None))]
    fn register(
        &self,
        py: Python<'_>,
        address: usize,
        bytes: usize,
        pinned: bool,
        owner: Py<PyAny>,
        device: Option<u32>,
    ) -> PyResult<u64> {
        let kind = match device {
            Some(device) => MemoryKind::Device(device),
            None if pinned => MemoryKind::PinnedHost,
            None => MemoryKind::Host,
        };
        self.run(py, |opened| opened.memory.register(&*opened.storage, address, bytes, kind, owner))
    }

    /// Forgets memory.
    fn deregister(&self, py: Python<'_>, handle: u64) -> PyResult<bool> {
        self.run(py, |opened| Ok(opened.memory.deregister(handle)))
    }

    /// Loads pages into memory: as many pieces a page as there are addresses a key.
    #[pyo3(signature = (pool, keys, addresses, lengths, handles=None))]
    fn load(
        &self,
        py: Python<'_>,
        pool: &str,
        keys: Vec<String>,
        addresses: Vec<usize>,
        lengths: Vec<usize>,
        handles: Option<Vec<u64>>,
    ) -> PyResult<Batch> {
        self.run(py, |opened| {
            let pages = Pages { pool: PoolName::new(pool)?, keys, addresses, lengths, handles };
            opened.transfer(&pages, Access::Write, |requests| opened.storage.load(requests))
        })
    }

    /// Stores pages out of memory.
    #[pyo3(signature = (pool, keys, addresses, lengths, handles=None, overwrite=false))]
    #[expect(clippy::too_many_arguments, reason = "the parts of a batch, side by side")]
    fn store(
        &self,
        py: Python<'_>,
        pool: &str,
        keys: Vec<String>,
        addresses: Vec<usize>,
        lengths: Vec<usize>,
        handles: Option<Vec<u64>>,
        overwrite: bool,
    ) -> PyResult<Batch> {
        self.run(py, |opened| {
            let pages = Pages { pool: PoolName::new(pool)?, keys, addresses, lengths, handles };
            let options = StoreOptions { overwrite };
            opened.transfer(&pages, Access::Read, |requests| opened.storage.store(requests, options))
        })
    }

    /// Which keys are there.
    fn exists(&self, py: Python<'_>, pool: &str, keys: Keys) -> PyResult<Vec<bool>> {
        self.run(py, |opened| opened.exists(&keys.of(PoolName::new(pool)?)?))
    }

    /// How many keys from the start are there.
    fn exists_prefix(&self, py: Python<'_>, pool: &str, keys: Keys) -> PyResult<usize> {
        self.run(py, |opened| {
            let there = opened.exists(&keys.of(PoolName::new(pool)?)?)?;
            Ok(there.into_iter().take_while(|&there| there).count())
        })
    }

    /// Deletes pages; says of each whether it was there.
    fn delete(&self, py: Python<'_>, pool: &str, keys: Keys) -> PyResult<Vec<bool>> {
        self.run(py, |opened| {
            let keys = keys.of(PoolName::new(pool)?)?;
            let outcomes = opening::block_on(opened.storage.delete(&keys))??;
            outcomes
                .into_iter()
                .map(|outcome| match outcome {
                    Outcome::Done => Ok(true),
                    Outcome::Absent => Ok(false),
                    Outcome::Failed(error) => Err(error),
                })
                .collect()
        })
    }

    /// Deletes every page of the namespace; answers how many there were.
    fn clear(&self, py: Python<'_>) -> PyResult<u64> {
        self.run(py, |opened| opening::block_on(opened.storage.clear())?)
    }

    /// At most `limit` pages as (pool, name, bytes), and where the rest begins.
    #[pyo3(signature = (prefix, limit, cursor=None))]
    #[expect(clippy::type_complexity, reason = "a list of tuples is what Python sees")]
    fn list(
        &self,
        py: Python<'_>,
        prefix: &str,
        limit: usize,
        cursor: Option<String>,
    ) -> PyResult<(Vec<(String, String, u64)>, Option<String>)> {
        self.run(py, |opened| {
            let cursor = cursor.map(ListCursor);
            let listing = opening::block_on(opened.storage.list(prefix, cursor.as_ref(), limit))??;
            let pages = listing.pages.into_iter().map(|page| (page.pool, page.name, page.bytes)).collect();
            Ok((pages, listing.next.map(|cursor| cursor.0)))
        })
    }

    /// Sizes and counts as JSON.
    fn stat(&self, py: Python<'_>) -> PyResult<String> {
        self.run(py, |opened| {
            serde_json::to_string(&opened.storage.stat()).map_err(|error| {
                Error::new(ErrorKind::Unexpected, "the statistics are no JSON").with_source(error)
            })
        })
    }

    /// Ends what was begun, and closes. A second call does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, |opened| {
            let closed = opening::block_on(opened.storage.close())?;
            opened.memory.clear();
            opened.memory.devices.end();
            match closed {
                Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
                closed => closed,
            }
        })
    }
}

impl Store {
    /// Runs `work` without the GIL.
    fn run<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&Opened) -> Result<T> + Send) -> PyResult<T> {
        let opened = &*self.0;
        if opened.process != std::process::id() {
            return Err(exception(&Error::new(
                ErrorKind::Closed,
                "the process has forked since the storage was opened; open it in the child too",
            )));
        }
        py.detach(|| work(opened)).map_err(|error| exception(&error))
    }
}

impl Opened {
    fn exists(&self, keys: &[PageKey]) -> Result<Vec<bool>> {
        match self.storage.exists_now(keys) {
            Some(answer) => answer,
            None => opening::block_on(self.storage.exists(keys))?,
        }
    }

    /// Moves the pages of a batch, and waits until the device is done with all of them.
    fn transfer(
        &self,
        pages: &Pages,
        access: Access,
        submit: impl FnOnce(Vec<PageRequest>) -> Transfer<PageBatch>,
    ) -> Result<Batch> {
        let pieces = pages.pieces()?;
        if self.lost.load(Ordering::Acquire) {
            let error = Error::new(ErrorKind::Unavailable, "an operation was lost; open the storage again");
            return Ok(Batch::failed(pages.keys.len(), &error));
        }
        let mut batch = Batch::failed(pages.keys.len(), &Error::new(ErrorKind::Unexpected, "no answer"));
        (batch.failed, batch.error) = (0, None);
        let (mut requests, mut places) =
            (Vec::with_capacity(pages.keys.len()), Vec::with_capacity(pages.keys.len()));
        for page in 0..pages.keys.len() {
            match self.request(pages, page, pieces, access) {
                Ok(request) => {
                    requests.push(request);
                    places.push(page);
                }
                Err(error) => batch.note(&error),
            }
        }
        if let Err(error) = self.memory.devices.wait_for(&requests) {
            return Ok(Batch::failed(pages.keys.len(), &error));
        }
        let lengths: Vec<usize> = requests.iter().map(|request| request.memory.bytes()).collect();
        let regions = Regions::of(&requests);
        let answer = submit(requests).wait();
        let is_lost = answer.memory.iter().any(Option::is_none);
        // What came back is leased no more: only what did not is waited for.
        drop(answer.memory);
        if is_lost {
            self.wait_for_lost_memory(&regions);
        }
        for ((outcome, page), bytes) in answer.outcomes.into_iter().zip(places).zip(lengths) {
            match outcome {
                Outcome::Done => {
                    batch.done[page] = true;
                    batch.bytes += bytes as u64;
                }
                Outcome::Absent => batch.absent += 1,
                Outcome::Failed(error) => batch.note(&error),
            }
        }
        Ok(batch)
    }

    fn request(&self, pages: &Pages, page: usize, pieces: usize, access: Access) -> Result<PageRequest> {
        let key = page_key(pages.pool, &pages.keys[page])?;
        let range = page * pieces..(page + 1) * pieces;
        let parts = pages.addresses[range.clone()].iter().copied().zip(pages.lengths[range].iter().copied());
        let handle = pages.handles.as_ref().map(|handles| handles[page]);
        let memory = self.memory.page(handle, parts, access)?;
        match pages.pool {
            PoolName::TEXT => PageRequest::named(&pages.keys[page], memory),
            _ => Ok(PageRequest::new(key, memory)),
        }
    }

    /// A device may still write where an operation was lost, and the caller reuses that memory as soon as it is
    /// answered. So nothing more is begun, and this call waits until no lease of its memory is out.
    fn wait_for_lost_memory(&self, regions: &Regions) {
        self.lost.store(true, Ordering::Release);
        let begun = Instant::now();
        tracing::error!(
            "an operation on a pool's memory was lost; nothing more is begun until the device is done"
        );
        regions.wait_for_rest();
        tracing::error!(seconds = begun.elapsed().as_secs(), "the memory of the lost operation is at rest");
    }
}

impl Pages {
    /// Pieces a page; the lists fit.
    fn pieces(&self) -> Result<usize> {
        let (keys, addresses, lengths) = (self.keys.len(), self.addresses.len(), self.lengths.len());
        let whole = if keys == 0 { addresses == 0 } else { addresses > 0 && addresses.is_multiple_of(keys) };
        if !whole
            || lengths != addresses
            || self.handles.as_ref().is_some_and(|handles| handles.len() != keys)
        {
            return Err(Error::config(format!(
                "{keys} keys, {addresses} addresses and {lengths} lengths are no batch; each key has the same number of \
                 pieces, each with an address and a length"
            )));
        }
        Ok(addresses.checked_div(keys).unwrap_or(0))
    }
}

impl Batch {
    fn failed(pages: usize, error: &Error) -> Self {
        Self { done: vec![false; pages], absent: 0, failed: pages, bytes: 0, error: Some(error.to_string()) }
    }

    fn note(&mut self, error: &Error) {
        self.failed += 1;
        self.error.get_or_insert_with(|| error.to_string());
    }
}
