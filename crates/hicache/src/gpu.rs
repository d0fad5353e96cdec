//! The backend of `hicache-gds` with its part of the configuration.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use hicache_core::{Backend, Engine, Result};
use hicache_gds::probe::Helper;
use hicache_gds::{CuFileConfig, DeviceChecksums, GdsBackend, StagedConfig};

use crate::config::{self, Config};

/// What the helper is called with, before what the probe adds.
const COMMAND: &str = "probe-gds";

/// Through cuFile where bytes go past host memory there, through pinned memory elsewhere.
pub(crate) fn backend(config: &Config) -> Box<dyn Backend> {
    Box::new(typed(config))
}

fn typed(config: &Config) -> GdsBackend {
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
        directory: settings.storage_dir.first().cloned().unwrap_or_default(),
        below: Arc::new(move || host_engine(&own)),
    }
}

/// The engine for host memory: io_uring, or threads where the kernel refuses it.
pub(crate) fn host_engine(config: &Config) -> Result<Arc<dyn Engine>> {
    let [uring, pread] = crate::posix::backends(config.settings());
    uring.open_engine().or_else(|_| pread.open_engine())
}

/// The command in `probe_helper`, or `hicache` on `PATH`.
fn helper(config: &Config) -> Option<Helper> {
    let mut words: Vec<OsString> = match config.settings().probe_helper.as_deref() {
        Some(words) => words.iter().map(OsString::from).collect(),
        None => {
            let path = config.variable("PATH").unwrap_or_default();
            let found = std::env::split_paths(path)
                .map(|directory: std::path::PathBuf| directory.join("hicache"))
                .find(|file: &std::path::PathBuf| Path::is_file(file))?;
            vec![found.into()]
        }
    };
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
            let backend = typed(&Config::builder().set("gds.device_checksums", word).build().unwrap());
            assert_eq!((backend.cufile.device_checksums, backend.staged.device_checksums), (wanted, wanted));
        }
        assert_eq!(typed(&Config::builder().build().unwrap()).staged, StagedConfig::default());
    }

    #[test]
    fn its_name_is_the_registrys() {
        assert_eq!(backend(&Config::builder().build().unwrap()).name(), crate::registry::GDS);
    }
}
