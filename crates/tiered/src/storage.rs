//! The storage.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use hicache_core::{
    Calls, Error, ErrorKind, ListCursor, Listing, Namespace, Outcome, PageBatch, PageKey, PageRequest,
    Region, Registration, Result, Storage, StorageStat, StoreOptions, Transfer,
};
use tokio::sync::{mpsc, oneshot};

use crate::config::TieredConfig;
use crate::counts::TierCounts;
use crate::shared::Shared;
use crate::{keys, load, staging, store, uploads};

/// A near storage before a far one; see the crate's documentation for what it promises.
#[derive(Debug)]
pub struct Tiered {
    shared: Arc<Shared>,
    close: mpsc::UnboundedSender<oneshot::Sender<Result<()>>>,
}

impl Tiered {
    /// Puts `near` before `far`, both of which should be of one namespace. One thread is started.
    ///
    /// # Errors
    /// `Config` for bounds of 0 and for tiers of different namespaces, `Unavailable` if the system gives no thread.
    pub fn open(near: Arc<dyn Storage>, far: Arc<dyn Storage>, config: TieredConfig) -> Result<Arc<Self>> {
        config.validate()?;
        if let (Some(one), Some(other)) = (near.namespace(), far.namespace())
            && one != other
        {
            return Err(Error::config(format!(
                "the tiers are of different namespaces: {} has {one:?}, {} has {other:?}",
                near.name(),
                far.name()
            )));
        }
        let (close, closing) = mpsc::unbounded_channel();
        let (made, making) = std::sync::mpsc::channel();
        // A runtime must not be dropped where others wait, so it has a thread that makes and ends it.
        let of_thread = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(made.send(Err(error))),
            };
            let calls = Calls::new("tiered", runtime.handle().clone());
            let shared = Arc::new(Shared::new(near, far, config, calls));
            if made.send(Ok(Arc::clone(&shared))).is_ok() {
                runtime.block_on(run(&shared, closing));
            }
            runtime.shutdown_background();
        };
        let unavailable =
            |error| Error::new(ErrorKind::Unavailable, "no thread for the tiers").with_source(error);
        thread::Builder::new().name("hicache-tiered".into()).spawn(of_thread).map_err(unavailable)?;
        let lost = || Error::new(ErrorKind::Unavailable, "the thread of the tiers ended");
        let shared = making.recv().map_err(|_| lost())?.map_err(unavailable)?;
        Ok(Arc::new(Self { shared, close }))
    }

    /// What became of pages, tier by tier.
    pub fn counts(&self) -> TierCounts {
        TierCounts { waiting_pages: self.shared.uploads.len() as u64, ..self.shared.counters.read() }
    }

    /// The near tier.
    pub fn near(&self) -> &Arc<dyn Storage> {
        &self.shared.near
    }

    /// The far tier.
    pub fn far(&self) -> &Arc<dyn Storage> {
        &self.shared.far
    }
}

async fn run(shared: &Arc<Shared>, mut closing: mpsc::UnboundedReceiver<oneshot::Sender<Result<()>>>) {
    let uploads = tokio::spawn({
        let shared = Arc::clone(shared);
        async move { uploads::upload(&shared).await }
    });
    let answer = closing.recv().await;
    shared.calls.idle().await;
    let limit = Duration::from_millis(shared.config.drain_timeout_ms);
    // A far tier that is cut off is not waited for; its pages would have been misses anyway.
    let gone = async {
        while shared.link.is_up() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let drained = async {
        tokio::select! {
            () = shared.uploads.drained() => {}
            () = gone => {}
        }
    };
    let _ = tokio::time::timeout(limit, drained).await;
    uploads.abort();
    let left = shared.uploads.close();
    shared.counters.unsent_pages.fetch_add(left as u64, Ordering::Relaxed);
    if left > 0 {
        tracing::warn!(pages = left, "pages did not reach the far tier before the storage was closed");
    }
    if let Some(answer) = answer {
        let near = shared.near.close().await;
        let far = shared.far.close().await;
        let _ = answer.send(near.and(far));
    }
    while let Some(again) = closing.recv().await {
        let _ = again.send(Ok(()));
    }
}

#[async_trait]
impl Storage for Tiered {
    fn name(&self) -> &'static str {
        "tiered"
    }

    fn namespace(&self) -> Option<&Namespace> {
        self.shared.near.namespace().or_else(|| self.shared.far.namespace())
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.shared.calls.open()?;
        staging::register(self.shared.owner, &*self.shared.near, &*self.shared.far, region)
    }

    fn load(&self, requests: Vec<PageRequest>) -> Transfer<PageBatch> {
        let shared = Arc::clone(&self.shared);
        self.shared.calls.submit(requests, |requests| async move { load::load(&shared, requests).await })
    }

    fn store(&self, requests: Vec<PageRequest>, options: StoreOptions) -> Transfer<PageBatch> {
        let shared = Arc::clone(&self.shared);
        self.shared
            .calls
            .submit(requests, |requests| async move { store::store(&shared, requests, options).await })
    }

    /// Only where the near tier has everything, or the far one is not asked: else it takes I/O.
    fn exists_now(&self, keys: &[PageKey]) -> Option<Result<Vec<bool>>> {
        if let Err(error) = self.shared.calls.open() {
            return Some(Err(error));
        }
        let near = self.shared.near.exists_now(keys)?;
        match &near {
            Ok(there) if self.shared.link.is_up() && there.contains(&false) => None,
            _ => Some(near),
        }
    }

    async fn exists(&self, keys: &[PageKey]) -> Result<Vec<bool>> {
        self.shared.calls.open()?;
        keys::exists(&self.shared, keys).await
    }

    async fn exists_prefix(&self, keys: &[PageKey]) -> Result<usize> {
        self.shared.calls.open()?;
        keys::exists_prefix(&self.shared, keys).await
    }

    async fn delete(&self, keys: &[PageKey]) -> Result<Vec<Outcome>> {
        let (shared, keys) = (Arc::clone(&self.shared), keys.to_vec());
        self.shared.calls.run(async move { keys::delete(&shared, &keys).await }).await
    }

    async fn clear(&self) -> Result<u64> {
        let shared = Arc::clone(&self.shared);
        self.shared.calls.run(async move { keys::clear(&shared).await }).await
    }

    async fn list(&self, prefix: &str, cursor: Option<&ListCursor>, limit: usize) -> Result<Listing> {
        self.shared.calls.open()?;
        keys::list(&self.shared, prefix, cursor, limit).await
    }

    /// Sizes are the near tier's; the far one's pages count as foreign. Counts are of what callers were answered.
    fn stat(&self) -> StorageStat {
        let (near, far, counts) = (self.shared.near.stat(), self.shared.far.stat(), self.counts());
        StorageStat {
            hit_pages: counts.near_hit_pages + counts.far_hit_pages,
            foreign_hit_pages: counts.far_hit_pages,
            far_stored_pages: far.stored_pages,
            missed_pages: counts.missed_pages,
            corrupt_pages: counts.corrupt_pages,
            failed_pages: counts.failed_pages,
            read_bytes: counts.read_bytes,
            foreign_pages: far.pages,
            foreign_page_bytes: far.page_bytes,
            breaker_opened: near.breaker_opened + counts.far_cut_off,
            breakers_open: near.breakers_open + u64::from(!self.shared.link.is_up()),
            ..near
        }
    }

    async fn close(&self) -> Result<()> {
        if !self.shared.calls.close() {
            return Ok(());
        }
        let (answer, closed) = oneshot::channel();
        let lost = || Err(Error::new(ErrorKind::Abandoned, "the thread of the tiers is gone"));
        if self.close.send(answer).is_err() {
            return lost();
        }
        closed.await.unwrap_or_else(|_| lost())
    }
}
