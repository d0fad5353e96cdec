//! The store: [`Storage`] over volumes and engines.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hicache_core::{
    Direction, Engine, EngineCapabilities, Error, ErrorKind, ForkMark, ListCursor, Listing, Namespace,
    Outcome, OwnerId, PageBatch, PageKey, PageRequest, Region, Registration, Result, SLOT_ALIGNMENT, Storage,
    StorageStat, StoreOptions, Transfer,
};
use hicache_hashing::RootId;
use tokio::sync::{mpsc, oneshot};

use crate::config::{PageStoreConfig, Role};
use crate::jobs::{Breakers, EngineRegistrations, Shared, Staging, Volumes};
use crate::set::physical_bytes;
use crate::volume::{ListFrom, VolumeOptions, cursor, parse_cursor};
use crate::worker::{self, Job};

/// Pages in segment files on local disks.
///
/// Opened with [`PageStore::open`]; the engines are its own from then on, and it closes them. All calls may come from any thread. Dropping it does not block: what was begun is
/// finished by the worker, and a last snapshot is written; [`Storage::close`] waits for that.
#[derive(Debug)]
pub struct PageStore {
    shared: Arc<Shared>,
    jobs: mpsc::UnboundedSender<Job>,
    closed: AtomicBool,
    fork: ForkMark,
    role: Role,
    namespace: Namespace,
}

impl PageStore {
    /// Opens or makes the store. `engines` move the pages: for a page the first one that moves its kind of memory.
    ///
    /// # Errors
    /// `Config` for what [`PageStoreConfig::validate`] refuses, the same root twice, a contradicting manifest, a newer
    /// format, a capacity below 16 pages; `Io`; `Unavailable`.
    pub async fn open(config: PageStoreConfig, engines: Vec<Arc<dyn Engine>>) -> Result<Arc<Self>> {
        config.validate()?;
        if engines.is_empty() {
            return Err(Error::config("a page store needs at least one engine"));
        }
        let (sender, opened) = oneshot::channel();
        // Opening reads whole journals: on a thread of its own, whatever runtime the caller has.
        let opening = std::thread::Builder::new().name("hicache-open".into()).spawn(move || {
            drop(sender.send(Self::open_blocking(&config, engines)));
        });
        opening.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "no thread to open with").with_source(error)
        })?;
        opened
            .await
            .map_err(|_| Error::new(ErrorKind::Unexpected, "opening the store failed without a word"))?
    }

    fn open_blocking(config: &PageStoreConfig, engines: Vec<Arc<dyn Engine>>) -> Result<Arc<Self>> {
        check_roots(&config.roots)?;
        if let Some(engine) = engines.iter().find(|engine| engine.capabilities().alignment > SLOT_ALIGNMENT) {
            let EngineCapabilities { name, alignment, .. } = engine.capabilities();
            return Err(Error::config(format!(
                "engine {name} needs alignment to {alignment} bytes; slots are aligned to {SLOT_ALIGNMENT}"
            )));
        }
        let options = VolumeOptions {
            capacity_bytes: config.capacity_bytes.map(|bytes| bytes / config.roots.len() as u64),
            roots: config.roots.len() as u64,
            segment_bytes: config.segment_bytes,
            role: config.role,
            durability: config.durability,
            page_bytes: config.page_bytes,
            policy: config.policy,
        };
        let roots = || config.roots.iter().map(PathBuf::as_path);
        let volumes = Volumes::open(roots(), &config.namespace, options)?;
        let io_timeout = Duration::from_millis(config.io_timeout_ms).min(FOR_EVER);
        let shared = Arc::new(Shared {
            owner: OwnerId::new(),
            engines,
            volumes,
            roots: root_ids(&config.roots),
            verify: config.verify,
            io_timeout,
            staging: Staging::new(config.staging_bytes),
            breakers: Breakers::new(roots(), io_timeout),
            batches: AtomicUsize::new(0),
        });
        let jobs = worker::start(Arc::clone(&shared))?;
        Ok(Arc::new(Self {
            shared,
            jobs,
            closed: AtomicBool::new(false),
            fork: ForkMark::new(),
            role: config.role,
            namespace: config.namespace.clone(),
        }))
    }

    /// Pages of `page_bytes` bytes that the store can hold at most, by its capacity and what else is under its roots.
    ///
    /// # Errors
    /// `Io`; `Config` for a length that no page has.
    pub fn slots(&self, page_bytes: u64) -> Result<u64> {
        let bytes = u32::try_from(page_bytes).ok().filter(|&bytes| bytes > 0 && bytes <= u32::MAX - 4095);
        let bytes = bytes.ok_or_else(|| Error::config(format!("no page has {page_bytes} bytes")))?;
        let slot_bytes = crate::format::slot_bytes(bytes);
        self.shared.volumes.now().iter().map(|volume| volume.slots(slot_bytes)).sum()
    }

    fn usable(&self) -> Result<()> {
        if self.fork.is_child() {
            return Err(ForkMark::refusal("store"));
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, "the store is closed"));
        }
        Ok(())
    }

    fn writes(&self) -> Result<()> {
        self.usable()?;
        match self.role {
            Role::Writer => Ok(()),
            Role::Reader => Err(Error::new(
                ErrorKind::Unsupported,
                "this store was opened with role \"reader\": it loads what others store; open it as a writer",
            )),
        }
    }

    fn batch(
        &self,
        requests: Vec<PageRequest>,
        job: impl FnOnce(Vec<PageRequest>, hicache_core::Completion<PageBatch>) -> Job,
    ) -> Transfer<PageBatch> {
        if let Err(error) = self.usable() {
            return Transfer::ready(PageBatch::failed(requests, &error));
        }
        if requests.is_empty() {
            return Transfer::ready(PageBatch { outcomes: Vec::new(), memory: Vec::new() });
        }
        let (completion, transfer) = Transfer::channel(requests.len());
        match self.jobs.send(job(requests, completion)) {
            Ok(()) => transfer,
            Err(mpsc::error::SendError(Job::Load(requests, _) | Job::Store(requests, ..))) => {
                Transfer::ready(PageBatch::failed(
                    requests,
                    &Error::new(ErrorKind::Closed, "the store is closed"),
                ))
            }
            Err(_) => transfer,
        }
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        self.usable()?;
        let (sender, answer) = oneshot::channel();
        let closed = || Error::new(ErrorKind::Closed, "the store is closed");
        self.jobs.send(job(sender)).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

/// An `io_timeout_ms` above this is the same as this: clocks can't be asked for any time to come.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Refuses roots that are no directories, the same, or one inside another: each has its own share of the capacity.
fn check_roots(roots: &[PathBuf]) -> Result<()> {
    let mut seen: Vec<(&PathBuf, PathBuf)> = Vec::new();
    for root in roots {
        if root.as_os_str().is_empty() {
            return Err(Error::config("a root is empty; name a directory"));
        }
        if std::fs::metadata(root).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(Error::config(format!("root {} is not a directory", root.display())));
        }
        let real = real_path(root);
        for (other, known) in &seen {
            if *known == real {
                return Err(Error::config(format!("root {} is given twice; name each once", root.display())));
            }
            if known.starts_with(&real) || real.starts_with(known) {
                return Err(Error::config(format!(
                    "roots {} and {} lie one inside the other; name directories apart",
                    other.display(),
                    root.display()
                )));
            }
        }
        seen.push((root, real));
    }
    Ok(())
}

/// Where a path leads, also where its end is not there yet.
fn real_path(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = absolute.ancestors().find_map(|part| Some((part, std::fs::canonicalize(part).ok()?)));
    let Some((part, mut real)) = there else { return absolute };
    for rest in absolute.strip_prefix(part).iter().flat_map(|rest| rest.components()) {
        match rest {
            Component::ParentDir => _ = real.pop(),
            rest => real.push(rest),
        }
    }
    real
}

/// Ids of roots that are there: by their real paths, so that another spelling of a path finds the same pages.
fn root_ids(roots: &[PathBuf]) -> Vec<RootId> {
    let real = |root: &PathBuf| std::fs::canonicalize(root).unwrap_or_else(|_| root.clone());
    roots.iter().map(|root| RootId::of(&real(root).to_string_lossy())).collect()
}

impl Shared {
    /// Which keys are there; a use.
    pub(crate) fn exists(&self, keys: &[&PageKey]) -> Vec<bool> {
        let volumes = self.volumes.now();
        if let [volume] = &volumes[..] {
            return volume.exists(keys);
        }
        let mut there = vec![false; keys.len()];
        for (number, volume) in volumes.iter().enumerate() {
            let own: Vec<usize> = (0..keys.len()).filter(|&i| self.volume_of(keys[i]) == number).collect();
            let own_keys: Vec<&PageKey> = own.iter().map(|&i| keys[i]).collect();
            for (i, found) in own.into_iter().zip(volume.exists(&own_keys)) {
                there[i] = found;
            }
        }
        there
    }
}

#[async_trait]
impl Storage for PageStore {
    fn name(&self) -> &'static str {
        "page-store"
    }

    fn namespace(&self) -> Option<&Namespace> {
        Some(&self.namespace)
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.usable()?;
        let engines = &self.shared.engines;
        let takes = |engine: &Arc<dyn Engine>| engine.capabilities().moves(region.kind());
        if !engines.iter().any(takes) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("no engine of this store moves memory of {:?}", region.kind()),
            ));
        }
        let registered = engines
            .iter()
            .map(|engine| takes(engine).then(|| engine.register(region)).transpose())
            .collect::<Result<Vec<_>>>()?;
        Ok(Registration::new(
            self.shared.owner,
            Arc::clone(region),
            Box::new(EngineRegistrations(registered)),
        ))
    }

    fn load(&self, requests: Vec<PageRequest>) -> Transfer<PageBatch> {
        self.batch(requests, Job::Load)
    }

    fn store(&self, requests: Vec<PageRequest>, options: StoreOptions) -> Transfer<PageBatch> {
        if let Err(error) = self.writes() {
            return Transfer::ready(PageBatch::failed(requests, &error));
        }
        self.batch(requests, |requests, completion| Job::Store(requests, options, completion))
    }

    fn exists_now(&self, keys: &[PageKey]) -> Option<Result<Vec<bool>>> {
        if let Err(error) = self.usable() {
            return Some(Err(error));
        }
        let keys: Vec<&PageKey> = keys.iter().collect();
        let mut there = self.shared.exists(&keys);
        // What can't be read is not there. When its trial is due it is, so that a load comes to try.
        let breakers = &self.shared.breakers;
        for volume in (0..self.shared.roots.len()).filter(|&v| breakers.of(v, Direction::Read).refuses()) {
            let own = (0..keys.len()).filter(|&i| self.shared.volume_of(keys[i]) == volume);
            own.for_each(|i| there[i] = false);
        }
        Some(Ok(there))
    }

    async fn delete(&self, keys: &[PageKey]) -> Result<Vec<Outcome>> {
        self.writes()?;
        let keys = keys.to_vec();
        self.ask(|answer| Job::Delete(keys, answer)).await
    }

    async fn clear(&self) -> Result<u64> {
        self.writes()?;
        self.ask(Job::Clear).await
    }

    async fn list(&self, prefix: &str, from: Option<&ListCursor>, limit: usize) -> Result<Listing> {
        self.usable()?;
        let (mut volume, mut place) = match from {
            Some(from) => parse_cursor(from)
                .ok_or_else(|| Error::config(format!("cursor {:?} is not from this storage", from.0)))?,
            None => (0, ListFrom::START),
        };
        if limit == 0 {
            return Err(Error::config("a listing of at most 0 pages says nothing; ask for at least 1"));
        }
        let mut listing = Listing::default();
        let volumes = self.shared.volumes.now();
        while let Some(own) = volumes.get(volume) {
            let (pages, next) = own.list(prefix, place, limit - listing.pages.len())?;
            listing.pages.extend(pages);
            if let Some(next) = next {
                listing.next = Some(cursor(volume, next));
                break;
            }
            (volume, place) = (volume + 1, ListFrom::START);
        }
        Ok(listing)
    }

    fn stat(&self) -> StorageStat {
        let mut stat = StorageStat { slots: Some(0), capacity_bytes: Some(0), ..StorageStat::default() };
        for volume in self.shared.volumes.now().iter() {
            volume.add_stat(&mut stat);
            stat.physical_bytes += physical_bytes(volume.root()).unwrap_or(0);
        }
        self.shared.breakers.add_stat(&mut stat);
        stat
    }

    async fn close(&self) -> Result<()> {
        if self.fork.is_child() || self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let (sender, answer) = oneshot::channel();
        if self.jobs.send(Job::Close(sender)).is_err() {
            return Ok(());
        }
        let result = answer.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unexpected, "the worker ended before the store was closed"))
        });
        let mut result = result;
        for engine in &self.shared.engines {
            let closed = engine.close().await;
            result = result.and(closed);
        }
        result
    }
}
