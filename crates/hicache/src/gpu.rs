//! The backend of `hicache-gds` with its part of the configuration.

use std::sync::Arc;

use hicache_core::{Backend, Engine, Result};
use hicache_gds::probe::Helper;
use hicache_gds::{CuFileConfig, DeviceChecksums, GdsBackend, STAGED, StagedConfig};

use crate::config::{self, Config};
use crate::probe::context;

/// What the helper is called with, before what the probe adds.
const COMMAND: &str = "probe-gds";

/// Through cuFile where bytes go past host memory there, through pinned memory elsewhere.
pub(crate) fn backend(config: &Config) -> Box<dyn Backend> {
    Box::new(gds(config))
}

fn gds(config: &Config) -> GdsBackend {
    let settings = config.settings();
    let own = config.clone();
    let device_checksums = match settings.gds.device_checksums {
        config::DeviceChecksums::Auto => DeviceChecksums::Auto,
        config::DeviceChecksums::Never => DeviceChecksums::Never,
    };
    GdsBackend {
        device: settings.device.unwrap_or(0),
        cufile: CuFileConfig {
            library: settings.gds.library.clone(),
            device_checksums,
            ..CuFileConfig::default()
        },
        staged: StagedConfig { device_checksums, ..StagedConfig::default() },
        helper: helper(config),
        // It is asked before a new store's directory is made.
        directory: settings.storage_dir.first().map(|first| context(first).directory).unwrap_or_default(),
        below: Arc::new(move || host_engine(&own)),
    }
}

/// What a page store has beside the engine of the backend: one that stages pages which cuFile does not take as they lie, and
/// one for pages in memory of the host.
pub(crate) fn engines_beside(first: &dyn Engine, config: &Config) -> Result<Vec<Arc<dyn Engine>>> {
    let mut engines = Vec::new();
    if first.capabilities().name != STAGED {
        engines.push(gds(config).open_staged()?);
    }
    engines.push(host_engine(config)?);
    Ok(engines)
}

/// The engine for host memory: io_uring, or threads where the kernel refuses it.
fn host_engine(config: &Config) -> Result<Arc<dyn Engine>> {
    let [uring, pread] = crate::posix::backends(config.settings());
    uring.open_engine().or_else(|_| pread.open_engine())
}

/// What probes it.
fn helper(config: &Config) -> Option<Helper> {
    let mut words = crate::helper::words(config)?;
    words.push(COMMAND.into());
    let program = words.remove(0);
    Some(Helper { program, arguments: words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_is_the_one_that_is_configured() {
        let config = Config::builder().set("probe_helper", serde_json::json!(["python3", "-m", "x"])).build();
        let helper = helper(&config.unwrap()).unwrap();
        assert_eq!(
            (helper.program, helper.arguments),
            ("python3".into(), vec!["-m".into(), "x".into(), COMMAND.into()])
        );
    }

    #[test]
    fn both_engines_are_told_who_sums() {
        for (word, wanted) in [("auto", DeviceChecksums::Auto), ("never", DeviceChecksums::Never)] {
            let backend = gds(&Config::builder().set("gds.device_checksums", word).build().unwrap());
            assert_eq!((backend.cufile.device_checksums, backend.staged.device_checksums), (wanted, wanted));
        }
        assert_eq!(gds(&Config::builder().build().unwrap()).staged, StagedConfig::default());
    }

    #[test]
    fn its_name_is_the_registrys() {
        assert_eq!(backend(&Config::builder().build().unwrap()).name(), crate::registry::GDS);
    }
}
