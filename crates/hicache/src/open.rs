//! From a configuration to a storage.

use std::sync::Arc;

use hicache_core::{Backend, Error, Namespace, Offer, ProbeReport, Result, Storage};

use crate::config::{Config, Origin};
use crate::select::{Skipped, select};
use crate::{memory, open_engine, registry};

/// An open storage, and how it came about.
#[derive(Debug)]
pub struct Opened {
    /// The storage. Close it before the program ends.
    pub storage: Arc<dyn Storage>,
    /// Name of the backend that was chosen.
    pub backend: &'static str,
    /// What the operator should know, one line each: backends that were passed over and why (of NIXL's only where the
    /// order was given), variables that look like a slip of the pen. To be logged once.
    pub notes: Vec<String>,
    /// All backends that were passed over.
    pub skipped: Vec<Skipped>,
    /// Every probe that was run.
    pub reports: Vec<ProbeReport>,
}

/// Chooses the backend, probes it, and opens the storage of the configured namespace.
///
/// # Errors
/// `Config` where the namespace is missing (all but the memory backend need one) and for whatever the page store
/// refuses, `Unavailable` if no backend works here, and what opening reports.
pub async fn open(config: &Config) -> Result<Opened> {
    open_with(config, registry::backends(config)).await
}

/// As [`open()`], with a list of backends of the caller's choice.
///
/// # Errors
/// As [`open()`].
pub async fn open_with(config: &Config, backends: Vec<Box<dyn Backend>>) -> Result<Opened> {
    let settings = config.settings();
    let namespace = match &settings.namespace {
        Some(namespace) => namespace.clone(),
        None if settings.backend == memory::NAME => Namespace::new(memory::NAME), // Nobody else sees its pages.
        None => {
            return Err(Error::config(
                "namespace.model is not set; give the model's name, so that its pages are told from other models'",
            ));
        }
    };
    let selected = select(config, backends).await?;
    let backend = selected.backend.name();
    let storage = match selected.backend.offer() {
        Offer::Engine => open_engine::open(config, namespace, &*selected.backend).await?,
        Offer::Storage => selected.backend.open_storage(&namespace).await?,
    };
    let mut notes = config.warnings().to_vec();
    // NIXL's plugins stand in the default order for those who have them: that one is missing is nothing to mend.
    let ordered = config.origin("order") != Origin::Default;
    let noted = |skipped: &&Skipped| ordered || !registry::is_of_nixl(&skipped.backend);
    notes.extend(selected.skipped.iter().filter(noted).map(Skipped::to_string));
    Ok(Opened { storage, backend, notes, skipped: selected.skipped, reports: selected.reports })
}
