//! Stands in where no backend of the build has an engine, and so no page store is built.

use std::sync::Arc;

use hicache_core::{Backend, Error, ErrorKind, Namespace, Result, Storage};

use crate::config::Config;

/// Refuses: `backend` came from outside this build's list.
pub(crate) async fn open(
    _config: &Config,
    _namespace: Namespace,
    backend: &dyn Backend,
) -> Result<Arc<dyn Storage>> {
    let message =
        format!("{} offers an engine, and this build lacks the Cargo feature `page-store`", backend.name());
    Err(Error::new(ErrorKind::Unsupported, message))
}
