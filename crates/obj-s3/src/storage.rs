//! The storage.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use async_trait::async_trait;
use aws_config::meta::region::ProvideRegion;
use hicache_core::{
    Calls, Error, ErrorKind, ListCursor, Listing, Namespace, Outcome, PageBatch, PageKey, PageRequest,
    Region, Registration, Result, Storage, StorageStat, StoreOptions, Transfer,
};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, oneshot};

use crate::attempts::{Endpoints, Question};
use crate::config::S3Config;
use crate::endpoint::Endpoint;
use crate::fault::{Fault, FaultKind};
use crate::known::Known;
use crate::layout::Layout;
use crate::shared::Shared;
use crate::{NAME, keys, load, manifest, store};

/// Pages in a bucket.
#[derive(Debug)]
pub struct S3Storage {
    shared: Arc<Shared>,
    close: mpsc::UnboundedSender<oneshot::Sender<Result<()>>>,
}

impl S3Storage {
    /// Opens the namespace in the bucket, and makes its manifest if there is none.
    ///
    /// # Errors
    /// `Config` for what the configuration is to blame for: no such bucket, no permission, another region, no object
    /// store at the address, a manifest of another namespace. `Unavailable` where nothing answers.
    pub async fn open(config: S3Config, namespace: &Namespace) -> Result<Arc<Self>> {
        config.validate()?;
        namespace.validate()?;
        let storage = Self::start(config, namespace).await?;
        let shared = Arc::clone(&storage.shared);
        match storage.shared.calls.run(async move { check_manifest(&shared).await }).await {
            Ok(()) => Ok(storage),
            Err(error) => {
                // The reason is the other one's.
                let _ = storage.close().await;
                Err(error)
            }
        }
    }

    async fn start(config: S3Config, namespace: &Namespace) -> Result<Arc<Self>> {
        let (made, making) = oneshot::channel();
        let (close, closing) = mpsc::unbounded_channel();
        let namespace = namespace.clone();
        let unavailable =
            |error| Error::new(ErrorKind::Unavailable, "no threads for the object store").with_source(error);
        // A runtime must not be dropped where others wait, so it has a thread that makes it and ends it.
        let of_thread = move || {
            let runtime = match runtime(config.threads) {
                Ok(runtime) => runtime,
                Err(error) => return drop(made.send(Err(unavailable(error)))),
            };
            runtime.block_on(async {
                let region = region(&config).await;
                let calls = Calls::new(NAME, Handle::current());
                let shared = endpoints(&config, &namespace, &region)
                    .map(|endpoints| Arc::new(Shared::new(config, namespace, endpoints, calls)));
                let kept = shared.as_ref().ok().cloned();
                if made.send(shared).is_ok()
                    && let Some(shared) = kept
                {
                    run(&shared, closing).await;
                }
            });
            runtime.shutdown_background();
        };
        thread::Builder::new().name("hicache-s3".into()).spawn(of_thread).map_err(unavailable)?;
        let lost = || Err(Error::new(ErrorKind::Unexpected, "the object store's thread ended"));
        let shared = making.await.unwrap_or_else(|_| lost())?;
        Ok(Arc::new(Self { shared, close }))
    }

    /// Deletes every page and the manifest: the namespace was never there.
    pub(crate) async fn remove_namespace(&self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        self.shared.calls.run(async move { keys::remove_namespace(&shared).await }).await
    }

    /// How many HEAD requests were made, for tests and benches.
    pub fn head_requests(&self) -> u64 {
        self.shared.counts.heads.load(Ordering::Relaxed)
    }

    /// How many bodies came that were too short, too long or not what was stored; each was asked for again.
    pub fn bad_bodies(&self) -> u64 {
        self.shared.counts.bad_bodies.load(Ordering::Relaxed)
    }
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name("hicache-s3").enable_all();
    // It panics where the system gives it no thread.
    let built = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.build()));
    built.unwrap_or_else(|_| Err(std::io::Error::other("the system gives no thread")))
}

async fn region(config: &S3Config) -> String {
    if let Some(region) = &config.region {
        return region.clone();
    }
    let chain = match config.endpoints.is_empty() {
        true => aws_config::default_provider::region::default_provider().region().await,
        false => None,
    };
    chain.map_or_else(|| "us-east-1".to_owned(), |region| region.as_ref().to_owned())
}

fn endpoints(config: &S3Config, namespace: &Namespace, region: &str) -> Result<Endpoints> {
    let made: Vec<Arc<Endpoint>> = match config.endpoints.is_empty() {
        true => vec![Arc::new(Endpoint::new(config, None, region)?)],
        false => config
            .endpoints
            .iter()
            .map(|address| Endpoint::new(config, Some(address), region).map(Arc::new))
            .collect::<Result<_>>()?,
    };
    let object = Layout::new(&config.prefix, namespace).manifest();
    Ok(Endpoints::new(made, Question { object, limit: config.stall() }))
}

async fn run(shared: &Arc<Shared>, mut closing: mpsc::UnboundedReceiver<oneshot::Sender<Result<()>>>) {
    let answer = closing.recv().await;
    // Everything has a deadline of its own.
    shared.calls.idle().await;
    if let Some(answer) = answer {
        let _ = answer.send(Ok(()));
    }
    while let Some(again) = closing.recv().await {
        let _ = again.send(Ok(()));
    }
}

/// Compares the namespace's manifest, or makes it.
async fn check_manifest(shared: &Shared) -> Result<()> {
    let object = shared.layout.manifest();
    let failed = |fault: Fault| fault.error("open", &shared.config.bucket, true);
    // This has a limit of its own, and the requests have theirs.
    let ready = shared.endpoints.iter().map(|endpoint| endpoint.credentials_ready());
    futures::future::try_join_all(ready).await.map_err(failed)?;
    // Once more if somebody else made it in between.
    for _ in 0..3 {
        match read_manifest(shared, &object).await {
            Ok(bytes) => {
                return manifest::check(&object, &bytes, &shared.namespace, shared.config.objects.as_deref());
            }
            Err(fault) if fault.kind == FaultKind::Missing => {}
            Err(fault) => return Err(failed(fault)),
        }
        if shared.config.read_only {
            // Nothing was ever stored; whoever stores will make it.
            return Ok(());
        }
        match write_manifest(shared, &object).await {
            Ok(()) => return Ok(()),
            Err(fault) if matches!(fault.kind, FaultKind::Exists | FaultKind::Conflict) => {}
            Err(fault) => return Err(failed(fault)),
        }
    }
    Err(Error::new(
        ErrorKind::Unavailable,
        format!("object {object:?} is there when it is written and not when it is read"),
    )
    .with_backend(NAME))
}

async fn read_manifest(shared: &Shared, object: &str) -> Result<Vec<u8>, Fault> {
    let mut attempts = shared.endpoints.attempts(shared.load_deadline());
    loop {
        let attempt = attempts.next().await?;
        match attempt.within(shared.stall(), attempt.endpoint.small(object)).await {
            Ok(bytes) => {
                attempt.succeeded();
                return Ok(bytes);
            }
            Err(fault) => attempts.failed(attempt, fault)?,
        }
    }
}

async fn write_manifest(shared: &Shared, object: &str) -> Result<(), Fault> {
    let text = manifest::write(&shared.namespace, shared.config.objects.as_deref());
    let mut attempts = shared.endpoints.attempts(shared.load_deadline());
    let mut replace = false;
    loop {
        let attempt = attempts.next().await?;
        match attempt.within(shared.stall(), attempt.endpoint.put_text(object, &text, replace)).await {
            Ok(()) => {
                attempt.succeeded();
                return Ok(());
            }
            // The store does not know If-None-Match. There was none a moment ago, and whoever else writes one writes the
            // same.
            Err(fault) if fault.kind == FaultKind::NotImplemented && !replace => replace = true,
            Err(fault) => attempts.failed(attempt, fault)?,
        }
    }
}

#[async_trait]
impl Storage for S3Storage {
    fn name(&self) -> &'static str {
        NAME
    }

    fn namespace(&self) -> Option<&Namespace> {
        Some(&self.shared.namespace)
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.shared.calls.open()?;
        if !region.kind().is_host() {
            let message =
                format!("memory of {:?} can't be sent; copy pages to host memory first", region.kind());
            return Err(Error::new(ErrorKind::Unsupported, message).with_backend(NAME));
        }
        Ok(Registration::new(self.shared.owner, Arc::clone(region), Box::new(())))
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

    /// Only where everything is known; else it takes requests.
    fn exists_now(&self, keys: &[PageKey]) -> Option<Result<Vec<bool>>> {
        if let Err(error) = self.shared.calls.open() {
            return Some(Err(error));
        }
        let known = keys.iter().map(|key| self.shared.known.get(key).map(|known| known == Known::Present));
        known.collect::<Option<Vec<bool>>>().map(Ok)
    }

    async fn exists(&self, keys: &[PageKey]) -> Result<Vec<bool>> {
        let (shared, keys) = (Arc::clone(&self.shared), keys.to_vec());
        self.shared.calls.run(async move { keys::exists(&shared, &keys).await }).await
    }

    async fn exists_prefix(&self, keys: &[PageKey]) -> Result<usize> {
        let (shared, keys) = (Arc::clone(&self.shared), keys.to_vec());
        self.shared.calls.run(async move { keys::exists_prefix(&shared, &keys).await }).await
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
        let (shared, prefix, cursor) = (Arc::clone(&self.shared), prefix.to_owned(), cursor.cloned());
        self.shared.calls.run(async move { keys::list(&shared, &prefix, cursor.as_ref(), limit).await }).await
    }

    /// Counts only: how much is in a bucket, nobody knows without listing it.
    fn stat(&self) -> StorageStat {
        self.shared.stat()
    }

    async fn close(&self) -> Result<()> {
        if !self.shared.calls.close() {
            return Ok(());
        }
        let (answer, closed) = oneshot::channel();
        let lost = || Err(Error::new(ErrorKind::Abandoned, "the object store's thread is gone"));
        if self.close.send(answer).is_err() {
            return lost();
        }
        closed.await.unwrap_or_else(|_| lost())
    }
}
