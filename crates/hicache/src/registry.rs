//! The backends of this build: a list, not a registration.

use hicache_core::Backend;

use crate::config::Config;
use crate::memory::{self, MemoryBackend};

/// A backend that this project has, whether or not this build has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// The Cargo feature that brings it; `None` for one that is always there.
    pub feature: Option<&'static str>,
    /// Whether it is in this build.
    pub built: bool,
}

/// Every backend of the project.
pub const KNOWN: [Known; 5] = [
    Known { name: "posix-uring", feature: Some("posix-uring"), built: cfg!(feature = "posix-uring") },
    Known { name: "posix-pread", feature: Some("posix-uring"), built: cfg!(feature = "posix-uring") },
    Known { name: OBJ_S3, feature: Some("obj-s3"), built: cfg!(feature = "obj-s3") },
    Known { name: TIERED, feature: Some("tiered"), built: cfg!(feature = "tiered") },
    Known { name: memory::NAME, feature: None, built: true },
];

/// What `auto` tries, in this order: the default of the field `order`.
pub const DEFAULT_ORDER: &str = "posix-uring,posix-pread,obj-s3";

/// The object store's name.
pub(crate) const OBJ_S3: &str = "obj-s3";
/// The name of a near storage before a far one.
pub(crate) const TIERED: &str = "tiered";

/// The backends of this build with their part of the configuration. Opens nothing.
pub fn backends(config: &Config) -> Vec<Box<dyn Backend>> {
    let settings = config.settings();
    let memory: Box<dyn Backend> = Box::new(MemoryBackend { capacity_bytes: settings.capacity_bytes });
    let lists = [
        #[cfg(feature = "posix-uring")]
        Vec::from(crate::posix::backends(settings)),
        #[cfg(feature = "obj-s3")]
        vec![crate::s3::backend(settings)],
        #[cfg(feature = "tiered")]
        vec![crate::tiers::backend(config)],
        vec![memory],
    ];
    lists.into_iter().flatten().collect()
}

/// Names of the backends in this build.
pub(crate) fn built_names() -> Vec<&'static str> {
    KNOWN.iter().filter(|known| known.built).map(|known| known.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_and_the_names_agree() {
        let config = Config::builder().build().unwrap();
        let listed: Vec<_> = backends(&config).iter().map(|backend| backend.name()).collect();
        assert_eq!(listed, built_names());
        assert!(DEFAULT_ORDER.split(',').all(|name| KNOWN.iter().any(|known| known.name == name)));
    }
}
