//! The configuration: one table of fields, four layers, and the origin of every value.
//!
//! The layers, each over the one before: the defaults (and below the file, what variables and the profile of AWS's say of NIXL's object
//! store), a file (TOML, JSON or YAML), the environment, and explicit
//! values of the program (command line, `extra_config` of SGLang). In the environment our own variables
//! (`HICACHE_STORAGE_DIR`, one a field) are over those of SGLang's NIXL connector, and `HICACHE_CONFIG` names the file
//! where the program names none. A variable that is empty counts as not set, and so does a `null` in a file.
//!
//! Unknown fields and bad values are refused by name, with the value, where it came from and what would be right.
//! Reading a configuration makes nothing and opens nothing but the file, and AWS's where NIXL's object store is given no address.
//!
//! ```
//! use hicache::{Config, Environment, Origin};
//!
//! let environment = Environment::from_iter([("HICACHE_POSIX_URING_DEPTH", "64")]);
//! let config = Config::builder().environment(&environment).set("capacity_bytes", "64GiB").build()?;
//! assert_eq!(config.settings().capacity_bytes, Some(64 << 30));
//! assert_eq!(config.settings().posix_uring.depth, 64);
//! assert_eq!(config.origin("capacity_bytes"), Origin::Explicit);
//! assert_eq!(config.origin("posix_uring.depth"), Origin::Environment("HICACHE_POSIX_URING_DEPTH".into()));
//!
//! let refused = Config::builder().set("capacity_byte", 1).build().unwrap_err().to_string();
//! assert!(refused.contains("did you mean `capacity_bytes`?"));
//! # Ok::<(), hicache::Error>(())
//! ```

mod aws_profile;
mod builder;
mod byte_size;
pub(crate) mod check;
mod connector;
mod docs;
mod field;
mod file;
mod foreign;
mod kind;
mod layers;
mod nixl_settings;
mod secret;
mod settings;
pub(crate) mod suggest;

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use crate::environment::{Environment, Python};

pub use builder::ConfigBuilder;
#[cfg(feature = "nixl")]
pub(crate) use builder::variables;
pub use docs::docs;
pub use field::{Field, fields};
use foreign::FALLBACKS;
pub use kind::Kind;
use layers::Layers;
pub use nixl_settings::{Nixl, Nixl3fs, NixlGds, NixlGdsMt, NixlObj, NixlPosix};
pub use secret::Secret;
pub use settings::{
    DeviceChecksums, Durability, Gds, Io, ObjS3, PosixPread, PosixUring, Role, Settings, Tiered,
};

/// Where a value came from. Written as `default`, `file /etc/hicache.toml`, `environment variable X`, `explicit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "layer", content = "name", rename_all = "kebab-case")]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// The program: a flag of the command line, an argument of a call.
    Explicit,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Explicit => f.write_str("explicit"),
        }
    }
}

/// One field of a configuration, explained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// Its path.
    pub field: &'static str,
    /// Its value.
    pub value: Value,
    /// Its value as people write it: sizes with a unit.
    pub text: String,
    /// Where the value came from.
    pub origin: Origin,
    /// The environment variable that would set it.
    pub variable: String,
    /// What the field does.
    pub help: &'static str,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.field, self.text, self.origin)
    }
}

/// A configuration that is complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    settings: Settings,
    layers: Layers,
    warnings: Vec<String>,
    environment: Environment,
}

impl Config {
    /// The defaults, to be overlaid.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// Every value, typed.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where the value of a field came from; `Default` for a field that does not exist.
    pub fn origin(&self, field: &str) -> Origin {
        self.layers.get(field).map_or(Origin::Default, |given| given.origin.clone())
    }

    /// Whether the value of a field is from a variable or the file of AWS's SDK.
    #[cfg_attr(
        not(all(feature = "nixl", feature = "obj-s3")),
        allow(dead_code, reason = "only NIXL's objects ask")
    )]
    pub(crate) fn is_of_aws(&self, field: &str) -> bool {
        match self.origin(field) {
            Origin::Environment(variable) => FALLBACKS.iter().any(|fallback| fallback.variable == variable),
            Origin::File(path) => aws_profile::file(&self.environment) == Some(path),
            Origin::Default | Origin::Explicit => false,
        }
    }

    /// Every field with value and origin, in the order of the documentation.
    pub fn explain(&self) -> Vec<Explained> {
        let explain = |field: &Field| {
            let value = self.layers.shown(field.name);
            Explained {
                field: field.name,
                text: field.kind.show(&value),
                value,
                origin: self.origin(field.name),
                variable: field.variable(),
                help: field.help,
            }
        };
        fields().iter().map(explain).collect()
    }

    /// A variable that says where something of this machine is, and is no field.
    #[cfg_attr(not(feature = "nixl"), allow(dead_code, reason = "only NIXL is looked for by variables"))]
    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment.get(name).filter(|value| !value.is_empty())
    }

    /// The Python that the process runs.
    #[cfg_attr(not(feature = "nixl"), allow(dead_code, reason = "only NIXL is looked for in it"))]
    pub(crate) fn python(&self) -> Option<&Python> {
        self.environment.python()
    }

    /// What is allowed and yet looks like a mistake: a variable that is nearly the name of a field's.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}
