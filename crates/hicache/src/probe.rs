//! Which backends work on this machine.

use std::path::{Path, PathBuf};

use hicache_core::{Backend, Error, MemoryKind, ProbeContext, ProbeReport, Result};

use crate::config::Config;
use crate::registry;

/// Probes every backend of this build with real bytes in `directory`, and says why each one works or does not.
///
/// Where the directory does not exist yet, its nearest existing ancestor is used: it is on the file system on which
/// the directory would be made. Nothing stays behind, and the directory itself is not made.
pub async fn probe_all(config: &Config, directory: &Path) -> Vec<ProbeReport> {
    let mut reports = Vec::new();
    for backend in registry::backends(config) {
        reports.push(probe_one(&*backend, directory, shown_memory(config, &*backend)).await);
    }
    reports
}

/// As [`probe_all`], of the backend of this name alone.
///
/// # Errors
/// `Config` for a name that this build does not have.
pub async fn probe_named(config: &Config, name: &str, directory: &Path) -> Result<ProbeReport> {
    let canonical = registry::known(name).map_or(name, |known| known.name);
    let backend = registry::backends(config).into_iter().find(|backend| backend.name() == canonical);
    let backend = backend.ok_or_else(|| {
        let names = registry::built_names().join(", ");
        Error::config(format!("{name:?} is not a backend of this build, which has {names}"))
    })?;
    let memory = shown_memory(config, &*backend);
    Ok(probe_one(&*backend, directory, memory).await)
}

/// The memory that pages are in.
pub(crate) fn memory(config: &Config) -> MemoryKind {
    config.settings().device.map_or(MemoryKind::Host, MemoryKind::Device)
}

/// What a probe asks whose answer is only shown: of what moves no host memory, the first device.
fn shown_memory(config: &Config, backend: &dyn Backend) -> MemoryKind {
    if backend.name() == registry::GDS {
        MemoryKind::Device(config.settings().device.unwrap_or(0))
    } else {
        memory(config)
    }
}

/// Probes one backend in `directory`.
pub(crate) async fn probe_one(backend: &dyn Backend, directory: &Path, memory: MemoryKind) -> ProbeReport {
    backend.probe(&ProbeContext { memory, ..context(directory) }).await
}

/// What a probe of `directory` is asked.
pub(crate) fn context(directory: &Path) -> ProbeContext {
    ProbeContext { directory: nearest_existing(directory), memory: MemoryKind::Host }
}

fn nearest_existing(directory: &Path) -> PathBuf {
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let existing = absolute.ancestors().find(|ancestor| ancestor.exists()).map(Path::to_owned);
    existing.unwrap_or(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_to_come_is_probed_where_it_will_be() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(nearest_existing(directory.path()), directory.path());
        assert_eq!(nearest_existing(&directory.path().join("a/b")), directory.path());
    }
}
