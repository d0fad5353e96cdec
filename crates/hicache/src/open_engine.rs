//! A page store over an engine.

use std::sync::Arc;

use hicache_core::{Backend, Namespace, Result, Storage};
use hicache_page_store::{Durability, LEAST_PAGES, PageStore, PageStoreConfig, Role};

use crate::config::check::FEWEST_PAGES;
use crate::config::{self, Config};

const _: () = assert!(FEWEST_PAGES == LEAST_PAGES);

/// Opens the engine of `backend` and the page store on it.
pub(crate) async fn open(
    config: &Config,
    namespace: Namespace,
    backend: &dyn Backend,
) -> Result<Arc<dyn Storage>> {
    let store = page_store_config(config, namespace);
    store.validate()?;
    #[cfg_attr(not(feature = "gds"), expect(unused_mut, reason = "one is added with the feature"))]
    let mut engines = vec![backend.open_engine()?];
    #[cfg(feature = "gds")]
    if backend.name() == crate::registry::GDS {
        let others = crate::gpu::engines_beside(&*engines[0], config)?;
        engines.extend(others);
    }
    match PageStore::open(store, engines.clone()).await {
        Ok(store) => Ok(store),
        Err(error) => {
            // The reason is the store's; an engine that can't close either adds nothing to it.
            for engine in engines {
                let _ = engine.close().await;
            }
            Err(error)
        }
    }
}

fn page_store_config(config: &Config, namespace: Namespace) -> PageStoreConfig {
    let settings = config.settings();
    let mut store = PageStoreConfig::new(settings.storage_dir.clone(), namespace);
    store.capacity_bytes = settings.capacity_bytes;
    store.segment_bytes = settings.segment_bytes;
    store.role = match settings.role {
        config::Role::Writer => Role::Writer,
        config::Role::Reader => Role::Reader,
    };
    store.durability = match settings.durability {
        config::Durability::None => Durability::None,
        config::Durability::Group => Durability::Group,
    };
    store.verify = settings.verify;
    store.io_timeout_ms = settings.io_timeout_ms;
    store.staging_bytes = settings.staging_bytes;
    store.page_bytes = settings.page_bytes;
    store
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_page_stores() {
        let config = Config::builder().build().unwrap();
        let namespace = Namespace::new("m");
        let own = PageStoreConfig::new(config.settings().storage_dir.clone(), namespace.clone());
        assert_eq!(format!("{:?}", page_store_config(&config, namespace)), format!("{own:?}"));
    }
}
