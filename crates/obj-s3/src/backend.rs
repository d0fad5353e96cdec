//! What the facade lists.

use std::sync::Arc;

use async_trait::async_trait;
use hicache_core::{
    Access, Backend, Check, Error, ErrorKind, Namespace, Offer, PageKey, PageRequest, ProbeContext,
    ProbeReport, Region, Result, Storage, StoreOptions, Verdict,
};

use crate::NAME;
use crate::config::S3Config;
use crate::storage::S3Storage;

/// The object store as a backend; `None` where no bucket is configured.
#[derive(Debug)]
pub struct S3Backend {
    /// Where pages are kept.
    pub config: Option<S3Config>,
}

impl S3Backend {
    fn config(&self) -> Result<&S3Config> {
        self.config.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "no bucket is configured; set obj_s3.bucket")
                .with_backend(NAME)
        })
    }

    async fn round_trip(&self, checks: &mut Vec<Check>) -> Result<()> {
        const PAGE: usize = 64 << 10;
        let config = self.config()?.clone();
        config.validate()?;
        // Nobody's pages are touched: the probe has a namespace of its own, and so a place of its own.
        let mut namespace = Namespace::new("hicache-probe");
        namespace.extra.insert("probe".into(), format!("{:032x}", rand::random::<u128>()));
        let read_only = config.read_only;
        let storage = S3Storage::open(config, &namespace).await?;
        if read_only {
            // Credentials that may only read are enough, and nothing is written.
            let listed = storage.list("", None, 1).await;
            let _ = storage.close().await;
            listed?;
            checks.push(Check::passed(
                "connect, read, list",
                "the bucket answers, and the credentials are taken",
            ));
            return Ok(());
        }
        checks.push(Check::passed(
            "connect, write the manifest",
            "the bucket answers, and the credentials are taken",
        ));
        let result = pages(&*storage, PAGE).await;
        // The manifest goes too; what can't be removed is small, and said.
        let removed = storage.remove_namespace().await;
        let _ = storage.close().await;
        checks.push(result?);
        removed?;
        Ok(())
    }
}

async fn pages(storage: &dyn Storage, bytes: usize) -> Result<Check> {
    let registered = storage.register(&Region::allocate(2, bytes)?)?;
    let key = PageKey::from_text("probe")?;
    let written: Vec<u8> = (0..bytes).map(|i| (i ^ (i >> 8)) as u8).collect();
    let mut memory = registered.page(0, bytes, Access::Write)?;
    memory.copy_from(&written)?;
    let stored = storage.store(vec![PageRequest::new(key, memory)], StoreOptions::default()).await;
    stored.outcomes[0].error().map_or(Ok(()), |error| Err(error.clone()))?;
    let memory = registered.page(1, bytes, Access::Write)?;
    let mut loaded = storage.load(vec![PageRequest::new(key, memory)]).await;
    loaded.outcomes[0].error().map_or(Ok(()), |error| Err(error.clone()))?;
    let mut seen = vec![0; bytes];
    if let Some(memory) = loaded.memory.pop().flatten() {
        memory.copy_to(&mut seen)?;
    }
    if !loaded.outcomes[0].is_done() || seen != written {
        return Err(
            Error::new(ErrorKind::Corrupt, "the bytes loaded are not the bytes stored").with_backend(NAME)
        );
    }
    storage.delete(&[key]).await?;
    Ok(Check::passed("store, load, compare, delete", format!("1 page of {bytes} bytes")))
}

#[async_trait]
impl Backend for S3Backend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn offer(&self) -> Offer {
        Offer::Storage
    }

    fn summary(&self) -> &'static str {
        "pages in a bucket of AWS S3, or of anything that speaks it"
    }

    async fn probe(&self, context: &ProbeContext) -> ProbeReport {
        let mut checks = Vec::new();
        let result = match context.memory.is_host() {
            true => self.round_trip(&mut checks).await,
            false => Err(Error::new(
                ErrorKind::Unsupported,
                format!("memory of {:?} can't be sent", context.memory),
            )),
        };
        let (verdict, reason) = match result {
            Ok(()) if self.config.as_ref().is_some_and(|config| config.read_only) => {
                (Verdict::Usable, "the bucket can be read and listed; nothing was written".to_owned())
            }
            Ok(()) => (Verdict::Usable, "bytes stored, loaded, compared and deleted".to_owned()),
            Err(error) => {
                checks.push(Check::failed("store, load, compare, delete", error.to_string()));
                (Verdict::Unavailable, error.to_string())
            }
        };
        ProbeReport { backend: NAME, offer: Offer::Storage, verdict, reason, checks }
    }

    async fn open_storage(&self, namespace: &Namespace) -> Result<Arc<dyn Storage>> {
        Ok(S3Storage::open(self.config()?.clone(), namespace).await?)
    }
}
