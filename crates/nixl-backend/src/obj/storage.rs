//! The storage.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use hicache_core::{
    Error, ErrorKind, ListCursor, Listing, Namespace, Outcome, PageBatch, PageKey, PageRequest, Region,
    Registration, Result, Storage, StorageStat, StoreOptions, Transfer,
};
use tokio::sync::oneshot;

use super::config::NixlObjConfig;
use super::driver::{Driver, Message};
use super::shared::Shared;
use super::wire::Wires;
use super::{NAME, deadline, open, plugin_wire};
use crate::ending;
use crate::library::Library;

/// Pages in a bucket, through NIXL's plugin OBJ. What the plugin can't do, deleting and listing, is `Unsupported`.
#[derive(Debug)]
pub struct NixlObjStorage {
    shared: Arc<Shared>,
    inbox: Sender<Message>,
}

impl NixlObjStorage {
    /// Opens the namespace in the bucket, and makes its manifest if there is none.
    ///
    /// # Errors
    /// `Config` for what the configuration is to blame for: no such bucket, no permission, a manifest of another
    /// namespace. `Unavailable` where nothing answers within `store_timeout_ms`, or the plugin makes no backend.
    pub async fn open(
        library: &Arc<Library>,
        config: NixlObjConfig,
        namespace: &Namespace,
    ) -> Result<Arc<Self>> {
        config.validate()?;
        namespace.validate()?;
        let library = Arc::clone(library);
        Self::start(Shared::new(config, namespace), move |shared| {
            plugin_wire::wires(&library, &shared.config)
        })
        .await
    }

    /// Opens on whatever `wires` makes, on the storage's thread: everything there may block, for ever too. What comes after
    /// its time is closed there.
    pub(super) async fn start(
        shared: Shared,
        wires: impl FnOnce(&Shared) -> Result<Wires> + Send + 'static,
    ) -> Result<Arc<Self>> {
        let shared = Arc::new(shared);
        let (sender, receiver) = channel();
        let (opened, opening) = deadline::within(Duration::from_millis(shared.config.store_timeout_ms), {
            let message = format!("{} did not answer in time, while it was opened", shared.place());
            Error::new(ErrorKind::Unavailable, message).with_backend(NAME).with_operation("open")
        })?;
        let (own, inbox) = (Arc::clone(&shared), sender.clone());
        let run = move || {
            let inside = ending::enter();
            let driver = wires(&own).and_then(|mut wires| {
                open::check(&own, &mut wires)?;
                Driver::new(own, wires, receiver, &inbox)
            });
            drop(inside);
            // Only its threads may send from here on.
            drop(inbox);
            match driver {
                Ok(driver) => {
                    if opened.send(Ok(())) {
                        driver.run();
                    }
                }
                Err(error) => _ = opened.send(Err(error)),
            }
        };
        thread::Builder::new().name("hicache-nixl-obj".into()).spawn(run).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "no thread for the object store").with_source(error)
        })?;
        let lost = || Err(Error::new(ErrorKind::Unexpected, "the object store's thread ended"));
        opening.await.unwrap_or_else(|_| lost())?;
        Ok(Arc::new(Self { shared, inbox: sender }))
    }

    /// How many objects were asked for, for tests and benches.
    pub fn head_requests(&self) -> u64 {
        self.shared.counts.heads.load(Ordering::Relaxed)
    }

    /// Bytes of memory that are never used again, since the plugin did not say whether it had done with them. At most
    /// `staging_bytes`; then pages are refused.
    pub fn lost_bytes(&self) -> u64 {
        self.shared.counts.lost_bytes.load(Ordering::Relaxed)
    }

    async fn ask(&self, keys: &[PageKey], prefix: bool) -> Result<Vec<bool>> {
        self.shared.open()?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        let _ = self.inbox.send(Message::Exists { keys: keys.to_vec(), prefix, reply });
        let lost =
            || Error::new(ErrorKind::Abandoned, "the object store's thread is gone").with_backend(NAME);
        answer.await.unwrap_or_else(|_| Err(lost()))
    }

    fn unsupported<T>(&self, what: &'static str) -> Result<T> {
        let message = format!(
            "NIXL's OBJ plugin does not {what}; build with the feature `obj-s3` and configure the same bucket there \
             (obj_s3.bucket), or use a lifecycle rule of the bucket"
        );
        Err(Error::new(ErrorKind::Unsupported, message).with_backend(NAME).with_operation(what))
    }
}

#[async_trait]
impl Storage for NixlObjStorage {
    fn name(&self) -> &'static str {
        NAME
    }

    fn namespace(&self) -> Option<&Namespace> {
        Some(&self.shared.namespace)
    }

    /// Pages are copied to and from memory of the storage's own, so this costs nothing.
    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.shared.open()?;
        if !region.kind().is_host() {
            let message =
                format!("memory of {:?} can't be sent; copy pages to host memory first", region.kind());
            return Err(Error::new(ErrorKind::Unsupported, message).with_backend(NAME));
        }
        Ok(Registration::new(self.shared.owner, Arc::clone(region), Box::new(())))
    }

    fn load(&self, requests: Vec<PageRequest>) -> Transfer<PageBatch> {
        if let Err(error) = self.shared.open() {
            return Transfer::ready(PageBatch::failed(requests, &error));
        }
        let (completion, transfer) = Transfer::channel(requests.len());
        let _ = self.inbox.send(Message::Load(requests, completion));
        transfer
    }

    fn store(&self, requests: Vec<PageRequest>, options: StoreOptions) -> Transfer<PageBatch> {
        let allowed = self.shared.open().and_then(|()| match self.shared.config.read_only {
            true => Err(Error::new(
                ErrorKind::Unsupported,
                "the storage was opened for reading; set role = writer",
            )
            .with_backend(NAME)),
            false => Ok(()),
        });
        if let Err(error) = allowed {
            return Transfer::ready(PageBatch::failed(requests, &error));
        }
        let (completion, transfer) = Transfer::channel(requests.len());
        let _ = self.inbox.send(Message::Store(requests, options, completion));
        transfer
    }

    fn exists_now(&self, _: &[PageKey]) -> Option<Result<Vec<bool>>> {
        self.shared.open().err().map(Err)
    }

    async fn exists(&self, keys: &[PageKey]) -> Result<Vec<bool>> {
        self.ask(keys, false).await
    }

    async fn exists_prefix(&self, keys: &[PageKey]) -> Result<usize> {
        Ok(self.ask(keys, true).await?.into_iter().take_while(|&there| there).count())
    }

    async fn delete(&self, _: &[PageKey]) -> Result<Vec<Outcome>> {
        self.shared.open()?;
        self.unsupported("delete")
    }

    async fn clear(&self) -> Result<u64> {
        self.shared.open()?;
        self.unsupported("clear")
    }

    async fn list(&self, _: &str, _: Option<&ListCursor>, _: usize) -> Result<Listing> {
        self.shared.open()?;
        self.unsupported("list")
    }

    /// Counts only: how much is in a bucket, nobody knows without listing it.
    fn stat(&self) -> StorageStat {
        self.shared.stat()
    }

    async fn close(&self) -> Result<()> {
        if self.shared.fork.is_child() || self.shared.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let (reply, closed) = oneshot::channel();
        let _ = self.inbox.send(Message::Close(Some(reply)));
        let lost =
            |_| Error::new(ErrorKind::Abandoned, "the object store's thread is gone").with_backend(NAME);
        closed.await.map_err(lost)
    }
}

impl Drop for NixlObjStorage {
    fn drop(&mut self) {
        // What is under way is finished, and then the thread ends. Never blocks.
        let _ = self.inbox.send(Message::Close(None));
    }
}
