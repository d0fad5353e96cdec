//! What NIXL's OBJ plugin can't do, done by the S3 backend on the same objects: deleting, clearing, listing.

use std::sync::Arc;

use async_trait::async_trait;
use hicache_core::{
    Backend, ListCursor, Listing, Namespace, Offer, Outcome, PageBatch, PageKey, PageRequest, ProbeContext,
    ProbeReport, Region, Registration, Result, Storage, StorageStat, StoreOptions, Transfer,
};
use hicache_nixl_backend::NixlObjBackend;
use hicache_nixl_backend::obj::{OBJECT_FORMAT, OBJECT_HEAD_BYTES};
use hicache_obj_s3::{S3Config, S3Storage};

use crate::config::check::{nixl_address, same_bucket};
use crate::config::{Config, Settings};
use crate::s3;

/// The plugin's backend, and what speaks of the same bucket; `None` where nothing does.
#[derive(Debug)]
pub(super) struct NixlObjWithS3 {
    inner: NixlObjBackend,
    same_bucket: Option<S3Config>,
}

impl NixlObjWithS3 {
    pub(super) fn new(inner: NixlObjBackend, config: &Config) -> Self {
        Self { inner, same_bucket: for_its_objects(config) }
    }
}

/// The S3 backend's configuration, for the objects of the plugin, if both are of one bucket at one address. Where the address is
/// one of AWS's settings, and the S3 backend was told none, it is that too.
fn for_its_objects(config: &Config) -> Option<S3Config> {
    let mut settings: Settings = config.settings().clone();
    if settings.obj_s3.endpoint.is_none() && config.is_of_aws("nixl_obj.endpoint_override") {
        settings.obj_s3.endpoint = nixl_address(&settings.nixl_obj).map(|address| vec![address]);
    }
    let s3 = s3::config(&settings).filter(|_| same_bucket(&settings))?;
    Some(S3Config { prefix: settings.nixl_obj.prefix, objects: Some(OBJECT_FORMAT.into()), ..s3 })
}

#[async_trait]
impl Backend for NixlObjWithS3 {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn offer(&self) -> Offer {
        self.inner.offer()
    }

    fn summary(&self) -> &'static str {
        self.inner.summary()
    }

    async fn probe(&self, context: &ProbeContext) -> ProbeReport {
        self.inner.probe(context).await
    }

    async fn open_storage(&self, namespace: &Namespace) -> Result<Arc<dyn Storage>> {
        let nixl = self.inner.open_storage(namespace).await?;
        let Some(config) = &self.same_bucket else { return Ok(nixl) };
        match S3Storage::open(config.clone(), namespace).await {
            Ok(s3) => Ok(Arc::new(Both { nixl, s3 })),
            Err(error) => {
                // The reason is the other one's.
                let _ = nixl.close().await;
                Err(error)
            }
        }
    }
}

/// Pages through the plugin, deletions and listings through S3.
#[derive(Debug)]
struct Both {
    nixl: Arc<dyn Storage>,
    s3: Arc<S3Storage>,
}

#[async_trait]
impl Storage for Both {
    fn name(&self) -> &'static str {
        self.nixl.name()
    }

    fn namespace(&self) -> Option<&Namespace> {
        self.nixl.namespace()
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.nixl.register(region)
    }

    fn load(&self, requests: Vec<PageRequest>) -> Transfer<PageBatch> {
        self.nixl.load(requests)
    }

    fn store(&self, requests: Vec<PageRequest>, options: StoreOptions) -> Transfer<PageBatch> {
        self.nixl.store(requests, options)
    }

    fn exists_now(&self, keys: &[PageKey]) -> Option<Result<Vec<bool>>> {
        self.nixl.exists_now(keys)
    }

    async fn exists(&self, keys: &[PageKey]) -> Result<Vec<bool>> {
        self.nixl.exists(keys).await
    }

    async fn exists_prefix(&self, keys: &[PageKey]) -> Result<usize> {
        self.nixl.exists_prefix(keys).await
    }

    async fn delete(&self, keys: &[PageKey]) -> Result<Vec<Outcome>> {
        self.s3.delete(keys).await
    }

    async fn clear(&self) -> Result<u64> {
        self.s3.clear().await
    }

    /// Pages that were stored under a text are listed by its hash: the objects don't carry it.
    async fn list(&self, prefix: &str, cursor: Option<&ListCursor>, limit: usize) -> Result<Listing> {
        let mut listing = self.s3.list(prefix, cursor, limit).await?;
        for page in &mut listing.pages {
            page.bytes = page.bytes.saturating_sub(OBJECT_HEAD_BYTES);
        }
        Ok(listing)
    }

    fn stat(&self) -> StorageStat {
        self.nixl.stat()
    }

    async fn close(&self) -> Result<()> {
        let closed = self.nixl.close().await;
        self.s3.close().await?;
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;

    #[test]
    fn only_the_same_bucket_at_the_same_address_is_one() {
        let composed = |fields: &[(&str, &str)]| {
            let builder =
                fields.iter().fold(Config::builder(), |builder, (name, value)| builder.set(name, *value));
            for_its_objects(&builder.build().unwrap())
        };
        let nixl =
            [("nixl_obj.bucket", "b"), ("nixl_obj.endpoint_override", "h:1"), ("nixl_obj.scheme", "http")];
        let with = |more: &[(&str, &str)]| composed(&[&nixl[..], more].concat());
        let same = with(&[("obj_s3.bucket", "b"), ("obj_s3.endpoint", "http://h:1/")]).unwrap();
        assert_eq!((same.prefix.as_str(), same.bucket.as_str()), ("hicache-nixl", "b"));
        assert_eq!(same.objects.as_deref(), Some("nixl 1"));
        assert!(with(&[]).is_none());
        assert!(with(&[("obj_s3.bucket", "c"), ("obj_s3.endpoint", "http://h:1")]).is_none());
        assert!(with(&[("obj_s3.bucket", "b"), ("obj_s3.endpoint", "https://h:1")]).is_none());
        assert!(with(&[("obj_s3.bucket", "b")]).is_none());
        assert!(composed(&[("nixl_obj.bucket", "b"), ("obj_s3.bucket", "b")]).is_some());
    }

    #[test]
    fn an_address_among_the_settings_of_aws_is_that_of_deletions_too() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config");
        std::fs::write(&file, "[default]\nendpoint_url = http://profile:1\n").unwrap();
        let composed = |variable: (&str, &str), endpoint: Option<&str>| {
            let builder = Config::builder()
                .environment(&Environment::from_iter([variable]))
                .set("nixl_obj.bucket", "b")
                .set("obj_s3.bucket", "b");
            let builder = endpoint
                .into_iter()
                .fold(builder, |builder, address| builder.set("obj_s3.endpoint", address));
            for_its_objects(&builder.build().unwrap()).map(|config| config.endpoints)
        };
        let profile = ("AWS_CONFIG_FILE", file.to_str().unwrap());
        assert_eq!(composed(profile, None).unwrap(), ["http://profile:1"]);
        assert_eq!(composed(("AWS_ENDPOINT_URL_S3", "https://h:2/"), None).unwrap(), ["https://h:2"]);
        assert_eq!(composed(profile, Some("http://profile:1/")).unwrap(), ["http://profile:1/"]);
        // Another store that has a bucket of that name.
        assert!(composed(profile, Some("http://h:1")).is_none());
    }
}
