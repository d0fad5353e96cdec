//! From texts of JSON to a configuration and an open storage.

use std::future::Future;

use hicache::{Config, ConfigBuilder, Error, ErrorKind, Namespace, Opened, Result, process_environment};
use pyo3::prelude::*;
use serde_json::{Map, Value};

use crate::errors::exception;

/// The configuration of `settings`, a JSON object of fields; with the environment below it. `namespace` is a JSON object
/// too. `revision` is taken where neither settings nor environment name one.
pub(crate) fn config(settings: &str, namespace: Option<&str>, revision: Option<&str>) -> Result<Config> {
    let table: Map<String, Value> = serde_json::from_str(settings).map_err(|error| {
        Error::config("the settings must be one JSON object of fields").with_source(error)
    })?;
    let mut builder = Config::builder().environment(&process_environment()).table(table);
    if let Some(namespace) = namespace {
        let namespace: Namespace = serde_json::from_str(namespace)
            .map_err(|error| Error::config("the namespace can't be read").with_source(error))?;
        builder = builder.namespace(&namespace);
    }
    let config = builder.clone().build()?;
    let named = config.settings().namespace.as_ref().is_some_and(|namespace| namespace.revision.is_some());
    match revision {
        Some(revision) if !named => builder.set("namespace.revision", revision).build(),
        _ => Ok(config),
    }
}

/// Opens the storage of a configuration.
pub(crate) fn open(config: &Config) -> Result<Opened> {
    block_on(hicache::open(config))?
}

/// Refuses settings that can't be right, before anything is opened. Answers the names of the namespace's fields that
/// are set.
#[pyfunction]
pub(crate) fn check_settings(settings: &str) -> PyResult<()> {
    let builder = |table| ConfigBuilder::default().environment(&process_environment()).table(table);
    let checked = serde_json::from_str::<Map<String, Value>>(settings)
        .map_err(|error| Error::config("the settings must be one JSON object of fields").with_source(error))
        // A revision or a salt is said without the model, which the server names later.
        .and_then(|mut table| {
            let namespace = table.entry("namespace").or_insert_with(|| Map::new().into());
            if let Some(namespace) = namespace.as_object_mut() {
                namespace.entry("model").or_insert_with(|| "to be named".into());
            }
            builder(table).build()
        });
    checked.map(drop).map_err(|error| exception(&error))
}

/// Runs a future to its end on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Error::new(ErrorKind::Unavailable, "no runtime could be started").with_source(error)
    })?;
    Ok(runtime.block_on(future))
}
