//! `probe`: which backends work on this machine.

use hicache::probe_all;
use pyo3::prelude::*;
use serde_json::json;

use crate::errors::exception;
use crate::opening;

/// Probes every backend of this build in every storage directory of the settings; answers JSON.
#[pyfunction]
pub(crate) fn probe(py: Python<'_>, settings: &str) -> PyResult<String> {
    let config = opening::config(settings, None, None).map_err(|error| exception(&error))?;
    py.detach(|| {
        let probed = opening::block_on(async {
            let mut directories = Vec::new();
            for directory in &config.settings().storage_dir {
                let backends = probe_all(&config, directory).await;
                directories.push(json!({ "directory": directory, "backends": backends }));
            }
            directories
        })?;
        Ok(json!({ "directories": probed }).to_string())
    })
    .map_err(|error: hicache::Error| exception(&error))
}
