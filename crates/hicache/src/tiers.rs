//! A near storage before a far one, each a backend of this build.

use std::sync::Arc;

use async_trait::async_trait;
use hicache_core::{
    Backend, Check, Error, ErrorKind, Namespace, Offer, ProbeContext, ProbeReport, Result, Storage, Verdict,
};
use hicache_tiered::{Tiered, TieredConfig};

use crate::config::{Config, Origin};
use crate::registry::{self, NIXL_OBJ, OBJ_S3, TIERED};
use crate::{memory, open_engine};

/// The tiers of a configuration.
pub(crate) fn backend(config: &Config) -> Box<dyn Backend> {
    Box::new(TieredBackend { config: config.clone() })
}

#[derive(Debug)]
struct TieredBackend {
    config: Config,
}

impl TieredBackend {
    fn tiered(&self) -> TieredConfig {
        let tiered = &self.config.settings().tiered;
        TieredConfig {
            staging_bytes: tiered.staging_bytes,
            queue_pages: tiered.queue_pages,
            batches: tiered.batches,
            absent_age_ms: tiered.absent_age_ms,
            drain_timeout_ms: tiered.drain_timeout_ms,
            ..TieredConfig::default()
        }
    }

    fn named(&self, field: &str, name: &str) -> Result<Box<dyn Backend>> {
        // Built without the tiers' own backend, which would contain itself.
        let mut backends = registry::backends(&self.config).into_iter();
        let found = backends.find(|backend| backend.name() == name && name != TIERED);
        found.ok_or_else(|| {
            let names = registry::built_names().into_iter().filter(|name| *name != TIERED);
            Error::config(format!(
                "{field} = {name:?} ({}) must be a backend of this build ({})",
                self.config.origin(field),
                names.collect::<Vec<_>>().join(", ")
            ))
        })
    }

    /// The near tier: the one that is named, or the first of the order that works here.
    async fn near(&self, context: &ProbeContext) -> Result<(Box<dyn Backend>, ProbeReport)> {
        let settings = self.config.settings();
        let named = &settings.tiered.near;
        let names: Vec<&str> = match named.as_str() {
            "auto" => {
                let elsewhere = [OBJ_S3, NIXL_OBJ, TIERED, memory::NAME];
                // Nobody asked for what stands in the default order and is not in this build.
                let was_given = self.config.origin("order") != Origin::Default;
                let is_built = |name: &str| registry::known(name).is_some_and(|known| known.built);
                let names = settings.order.iter().map(String::as_str);
                names.filter(|name| !elsewhere.contains(name) && (was_given || is_built(name))).collect()
            }
            name => vec![name],
        };
        let mut reasons = Vec::new();
        for name in names {
            match self.named("tiered.near", name) {
                Ok(backend) => {
                    let report = backend.probe(context).await;
                    if report.verdict == Verdict::Usable {
                        return Ok((backend, report));
                    }
                    reasons.push(format!("{name}: {}", report.reason));
                }
                Err(error) if named == "auto" => reasons.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        let message = format!("tiered.near = {named:?} can't be used: {}", reasons.join("; "));
        Err(Error::new(ErrorKind::Unavailable, message).with_backend(TIERED))
    }

    async fn probe_both(&self, context: &ProbeContext, checks: &mut Vec<Check>) -> Result<()> {
        let (_, near) = self.near(context).await?;
        checks.push(Check::passed(format!("near: {}", near.backend), near.reason));
        let far = self.named("tiered.far", &self.config.settings().tiered.far)?.probe(context).await;
        if far.verdict != Verdict::Usable {
            let message = format!("tiered.far = {:?} can't be used: {}", far.backend, far.reason);
            return Err(Error::new(ErrorKind::Unavailable, message).with_backend(TIERED));
        }
        checks.push(Check::passed(format!("far: {}", far.backend), far.reason));
        Ok(())
    }

    async fn open_one(&self, backend: &dyn Backend, namespace: &Namespace) -> Result<Arc<dyn Storage>> {
        match backend.offer() {
            Offer::Engine => open_engine::open(&self.config, namespace.clone(), backend).await,
            Offer::Storage => backend.open_storage(namespace).await,
        }
    }
}

#[async_trait]
impl Backend for TieredBackend {
    fn name(&self) -> &'static str {
        TIERED
    }

    fn offer(&self) -> Offer {
        Offer::Storage
    }

    fn summary(&self) -> &'static str {
        "a storage of this machine before one that others share"
    }

    async fn probe(&self, context: &ProbeContext) -> ProbeReport {
        let mut checks = Vec::new();
        let result = self.probe_both(context, &mut checks).await;
        let (verdict, reason) = match result {
            Ok(()) => (Verdict::Usable, "both tiers stored, loaded and compared bytes".to_owned()),
            Err(error) => {
                checks.push(Check::failed("both tiers", error.to_string()));
                (Verdict::Unavailable, error.to_string())
            }
        };
        ProbeReport { backend: TIERED, offer: Offer::Storage, verdict, reason, checks }
    }

    async fn open_storage(&self, namespace: &Namespace) -> Result<Arc<dyn Storage>> {
        let tiered = self.tiered();
        tiered.validate()?;
        let settings = self.config.settings();
        let directory = settings.storage_dir.first().cloned().unwrap_or_default();
        let context = crate::probe::context(&directory);
        let (near, _) = self.near(&context).await?;
        let far = self.named("tiered.far", &settings.tiered.far)?;
        let far = self.open_one(&*far, namespace).await?;
        let near = match self.open_one(&*near, namespace).await {
            Ok(near) => near,
            Err(error) => {
                // The reason is the near one's.
                let _ = far.close().await;
                return Err(error);
            }
        };
        Ok(Tiered::open(near, far, tiered)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigBuilder;

    #[test]
    fn the_defaults_are_the_tiers() {
        let config = Config::builder().build().unwrap();
        assert_eq!(TieredBackend { config }.tiered(), TieredConfig::default());
    }

    /// A directory in which nothing can be made leaves no backend for files.
    #[tokio::test]
    async fn a_near_tier_is_never_a_bucket_and_says_nothing_of_what_nobody_asked_for() {
        let near = async |builder: ConfigBuilder| {
            let builder = builder.set("nixl_obj.bucket", "b").set("obj_s3.bucket", "b");
            let tiers = TieredBackend { config: builder.build().unwrap() };
            let context = crate::probe::context(std::path::Path::new("/proc"));
            tiers.near(&context).await.map(|(backend, _)| backend.name()).unwrap_err().to_string()
        };
        let reasons = near(Config::builder()).await;
        for strange in ["OBJ", "obj-s3", "must be a backend of this build"] {
            assert!(!reasons.contains(strange), "{strange} is in: {reasons}");
        }
        let reasons = near(Config::builder().set("order", "nixl:OBJ,nixl:3FS,obj-s3")).await;
        assert!(reasons.contains("nixl:3FS") && !reasons.contains("nixl:OBJ:"), "{reasons}");
    }

    #[tokio::test]
    async fn both_tiers_are_named_backends() {
        let directory = tempfile::tempdir().unwrap();
        let context = crate::probe::context(directory.path());
        let with = |near: &str, far: &str| {
            let config = Config::builder().set("tiered.near", near).set("tiered.far", far).build().unwrap();
            TieredBackend { config }
        };
        let report = with("memory", "memory").probe(&context).await;
        assert_eq!(report.verdict, Verdict::Usable, "{report:?}");
        for (near, far, word) in [("tiered", "memory", "tiered.near"), ("memory", "tape", "tiered.far")] {
            let report = with(near, far).probe(&context).await;
            assert!(report.verdict == Verdict::Unavailable && report.reason.contains(word), "{report:?}");
        }
        let storage = with("memory", "memory").open_storage(&Namespace::new("m")).await.unwrap();
        assert_eq!(storage.name(), TIERED);
        storage.close().await.unwrap();
    }
}
