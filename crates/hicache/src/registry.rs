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
pub const KNOWN: [Known; 10] = [
    Known { name: "posix-uring", feature: Some("posix-uring"), built: cfg!(feature = "posix-uring") },
    Known { name: "posix-pread", feature: Some("posix-uring"), built: cfg!(feature = "posix-uring") },
    Known { name: OBJ_S3, feature: Some("obj-s3"), built: cfg!(feature = "obj-s3") },
    nixl("nixl:3FS"),
    nixl("nixl:POSIX"),
    nixl("nixl:GDS_MT"),
    nixl("nixl:GDS"),
    nixl(NIXL_OBJ),
    Known { name: TIERED, feature: Some("tiered"), built: cfg!(feature = "tiered") },
    Known { name: memory::NAME, feature: None, built: true },
];

const fn nixl(name: &'static str) -> Known {
    Known { name, feature: Some("nixl"), built: cfg!(feature = "nixl") }
}

/// A plugin of NIXL as configurations speak of it. Here, so that they are read alike in builds without it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NixlPlugin {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its name in NIXL, where that is another.
    pub(crate) nixl_name: &'static str,
    /// The backend that stands on it.
    pub(crate) backend: &'static str,
    /// The table of its fields.
    pub(crate) table: &'static str,
}

impl NixlPlugin {
    /// Whether this is its name, in any case.
    pub(crate) fn is(&self, name: &str) -> bool {
        [self.name, self.nixl_name].iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// The plugins of NIXL.
pub(crate) const NIXL: [NixlPlugin; 5] = [
    NixlPlugin { name: "3FS", nixl_name: "HF3FS", backend: "nixl:3FS", table: "nixl_3fs" },
    NixlPlugin { name: "POSIX", nixl_name: "POSIX", backend: "nixl:POSIX", table: "nixl_posix" },
    NixlPlugin { name: "GDS_MT", nixl_name: "GDS_MT", backend: "nixl:GDS_MT", table: "nixl_gds_mt" },
    NixlPlugin { name: "GDS", nixl_name: "GDS", backend: "nixl:GDS", table: "nixl_gds" },
    NixlPlugin { name: "OBJ", nixl_name: "OBJ", backend: "nixl:OBJ", table: "nixl_obj" },
];

/// The backend of this name; those of NIXL in any case, and by both names that 3FS has.
pub(crate) fn known(name: &str) -> Option<&'static Known> {
    let plugin = name.split_once(':').filter(|(of, _)| of.eq_ignore_ascii_case("nixl"));
    let plugin = plugin.and_then(|(_, plugin)| NIXL.iter().find(|known| known.is(plugin)));
    let name = plugin.map_or(name, |plugin| plugin.backend);
    KNOWN.iter().find(|known| known.name == name)
}

/// What `auto` tries, in this order: the default of the field `order`.
pub const DEFAULT_ORDER: &str =
    "nixl:3FS,nixl:POSIX,nixl:GDS_MT,nixl:GDS,nixl:OBJ,posix-uring,posix-pread,obj-s3";

/// The object store's name.
pub(crate) const OBJ_S3: &str = "obj-s3";
/// The object store through NIXL.
pub(crate) const NIXL_OBJ: &str = "nixl:OBJ";
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
        #[cfg(feature = "nixl")]
        crate::nixl::backends(config),
        #[cfg(feature = "tiered")]
        vec![crate::tiers::backend(config)],
        vec![memory],
    ];
    lists.into_iter().flatten().collect()
}

/// Whether this is the name of a backend that stands on NIXL.
pub(crate) fn is_of_nixl(backend: &str) -> bool {
    NIXL.iter().any(|plugin| plugin.backend == backend)
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
