//! The memory backend: always there, keeps nothing.

use std::sync::Arc;

use async_trait::async_trait;
use hicache_core::{
    Access, Backend, Check, Error, ErrorKind, MemoryStorage, Namespace, Offer, PageKey, PageRequest,
    ProbeContext, ProbeReport, Region, Result, Storage, StoreOptions, Verdict,
};

/// Its name.
pub(crate) const NAME: &str = "memory";

#[derive(Debug)]
pub(crate) struct MemoryBackend {
    pub(crate) capacity_bytes: Option<u64>,
}

impl MemoryBackend {
    fn storage(&self) -> MemoryStorage {
        self.capacity_bytes.map_or_else(MemoryStorage::new, MemoryStorage::with_capacity)
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn offer(&self) -> Offer {
        Offer::Storage
    }

    fn summary(&self) -> &'static str {
        "pages in the memory of this process, forgotten when it ends"
    }

    async fn probe(&self, context: &ProbeContext) -> ProbeReport {
        let result = if context.memory.is_host() {
            round_trip().await
        } else {
            Err(Error::new(ErrorKind::Unsupported, format!("memory of {:?} can't be read", context.memory)))
        };
        let (verdict, reason, check) = match result {
            Ok(check) => (Verdict::Usable, "bytes stored, loaded and compared".to_owned(), check),
            Err(error) => (
                Verdict::Unavailable,
                error.to_string(),
                Check::failed("store, load, compare", error.to_string()),
            ),
        };
        ProbeReport { backend: NAME, offer: Offer::Storage, verdict, reason, checks: vec![check] }
    }

    async fn open_storage(&self, _namespace: &Namespace) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.storage()))
    }
}

async fn round_trip() -> Result<Check> {
    const PAGE: usize = 4096;
    let storage = MemoryStorage::new();
    let registered = storage.register(&Region::allocate(2, PAGE)?)?;
    let key = PageKey::from_text("probe")?;
    let mut written = registered.page(0, PAGE, Access::Write)?;
    let bytes: Vec<u8> = (0..PAGE).map(|i| (i ^ (i >> 8)) as u8).collect();
    written.copy_from(&bytes)?;
    let stored = storage.store(vec![PageRequest::new(key, written)], StoreOptions::default()).await;
    let page = PageRequest::new(key, registered.page(1, PAGE, Access::Write)?);
    let mut loaded = storage.load(vec![page]).await;
    let mut seen = vec![0; PAGE];
    if let Some(page) = loaded.memory.pop().flatten() {
        page.copy_to(&mut seen)?;
    }
    if !stored.outcomes[0].is_done() || !loaded.outcomes[0].is_done() || seen != bytes {
        return Err(Error::new(ErrorKind::Corrupt, "the bytes loaded are not the bytes stored"));
    }
    Ok(Check::passed("store, load, compare", format!("1 page of {PAGE} bytes")))
}
