//! What the engine can be told.

use std::fmt;
use std::str::FromStr;

use hicache_core::{Error, Result};

/// How files are read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IoMode {
    /// Past the page cache where the file and the extent allow it, through it elsewhere.
    #[default]
    Auto,
    /// As `Auto`, and a warning is logged, once an engine, when a file can't be opened for direct I/O.
    Direct,
    /// Through the page cache always.
    Buffered,
}

impl IoMode {
    /// All modes, in the order in which messages list them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Direct, Self::Buffered];

    /// The word for it in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Buffered => "buffered",
        }
    }
}

impl fmt::Display for IoMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for IoMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| {
            Error::config(format!("io is {text:?}; it must be \"auto\", \"direct\" or \"buffered\""))
        })
    }
}

/// Settings of a [`NixlEngine`](super::NixlEngine).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NixlEngineConfig {
    /// Name of the engine in capabilities, probes and errors.
    pub name: &'static str,
    /// The plugin, as NIXL calls it: `POSIX`, `GDS_MT`, `GDS`, `HF3FS`.
    pub plugin: String,
    /// Its parameters; what is not named keeps the plugin's default.
    pub parameters: Vec<(String, String)>,
    /// How files are read and written. The GDS plugins take files opened for direct I/O only.
    pub io: IoMode,
    /// I/O threads, each with an agent and a backend of its own; batches go to them in turn. 1 to
    /// [`NixlEngineConfig::MAX_THREADS`].
    pub threads: usize,
    /// Descriptors that each thread keeps in flight; 1 to [`NixlEngineConfig::MAX_DEPTH`]. Held below the plugin's
    /// `ios_pool_size`, since one too many fails, and what it had queued till then is lost to the plugin for good.
    pub depth: usize,
}

impl NixlEngineConfig {
    /// Largest `threads`.
    pub const MAX_THREADS: usize = 64;
    /// Largest `depth`.
    pub const MAX_DEPTH: usize = 65_535;

    /// The defaults for `plugin`.
    pub fn new(plugin: impl Into<String>) -> Self {
        let plugin = plugin.into();
        Self {
            name: engine_name(&plugin),
            plugin,
            parameters: Vec::new(),
            io: IoMode::Auto,
            threads: 1,
            depth: 1024,
        }
    }

    /// The same with a parameter more, or another value of it.
    pub fn with_parameter(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.parameters.retain(|(known, _)| known != name);
        self.parameters.push((name.to_owned(), value.to_string()));
        self
    }

    /// Refuses what can't be.
    ///
    /// # Errors
    /// `Config`, naming the field, its value and its limits, or why a parameter is refused.
    pub fn validate(&self) -> Result<()> {
        within("threads", self.threads, Self::MAX_THREADS)?;
        within("depth", self.depth, Self::MAX_DEPTH)?;
        if self.plugin == POSIX && self.is_on("use_posix_aio") {
            return Err(Error::config(
                "use_posix_aio is on; with it one failed request fails all later ones, and the process dies at its \
                 end: leave it out, or take use_aio or use_uring",
            ));
        }
        for limit in
            ["ios_pool_size", "kernel_queue_size", "batch_pool_size", "batch_limit", "max_request_size"]
        {
            // The plugin reads numbers in more ways than one, and what it makes of them decides how many may fly.
            if let Some(value) = self.parameter(limit)
                && !value.parse::<u32>().is_ok_and(|number| number > 0)
            {
                return Err(Error::config(format!(
                    "{limit} is {value:?}; it must be a decimal number from 1 on"
                )));
            }
        }
        if self.plugin == THREE_FS
            && self.threads > 1
            && self.parameter("mem_config").is_some_and(|m| m != "dram")
        {
            return Err(Error::config(
                "mem_config maps registered memory anew, once a thread; take \"dram\", or threads = 1",
            ));
        }
        Ok(())
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// What the plugin would choose in a way that does not go with views into one pool: by default 3FS maps memory
    /// that is registered anew, while others may use it.
    pub(super) fn set_defaults(&mut self) {
        if self.plugin == THREE_FS && self.parameter("mem_config").is_none() {
            self.parameters.push(("mem_config".to_owned(), "dram".to_owned()));
        }
    }

    /// Most requests that a thread keeps in flight. GDS takes batches of a pool for each, and loses one for which none
    /// is left; a request of ours is two of its batches at most.
    pub(super) fn requests(&self) -> usize {
        if self.plugin != GDS {
            return usize::MAX;
        }
        let pool = self.parameter("batch_pool_size").and_then(|value| value.parse::<usize>().ok());
        (pool.unwrap_or(16) / 2).max(1)
    }

    /// Most pieces of an extent, as the plugin's batches have room for them.
    pub(super) fn most_pieces(&self) -> usize {
        let limit = self.parameter("batch_limit").and_then(|value| value.parse::<usize>().ok());
        if self.plugin == GDS { limit.unwrap_or(128) } else { usize::MAX }
    }

    fn is_on(&self, parameter: &str) -> bool {
        let value =
            self.parameters.iter().find(|(name, _)| name == parameter).map(|(_, value)| value.as_str());
        value.is_some_and(|value| {
            ["1", "true", "yes", "y", "on", "enable"].contains(&value.to_ascii_lowercase().as_str())
        })
    }
}

pub(crate) const POSIX: &str = "POSIX";
const THREE_FS: &str = "HF3FS";
const GDS: &str = "GDS";

/// Engines have names that live as long as the process.
fn engine_name(plugin: &str) -> &'static str {
    match plugin {
        POSIX => "nixl:POSIX",
        "GDS_MT" => "nixl:GDS_MT",
        "GDS" => "nixl:GDS",
        "HF3FS" => "nixl:3FS",
        _ => "nixl",
    }
}

/// Whether the plugin takes nothing but files opened for direct I/O.
pub(crate) fn needs_direct(plugin: &str) -> bool {
    matches!(plugin, "GDS" | "GDS_MT")
}

fn within(field: &str, value: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::config(format!("{field} is {value}; it must be 1 to {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_named() {
        let good = NixlEngineConfig::new(POSIX);
        good.validate().unwrap();
        let text = |config: NixlEngineConfig| config.validate().unwrap_err().to_string();
        assert!(
            text(NixlEngineConfig { threads: 0, ..good.clone() })
                .contains("threads is 0; it must be 1 to 64")
        );
        assert!(text(NixlEngineConfig { depth: 65_536, ..good.clone() }).contains("depth is 65536"));
        assert!("Direct".parse::<IoMode>().unwrap_err().to_string().contains("\"direct\""));
    }

    #[test]
    fn posix_aio_is_refused_with_the_reason() {
        let on = NixlEngineConfig::new(POSIX).with_parameter("use_posix_aio", "True");
        assert!(on.validate().unwrap_err().to_string().contains("one failed request fails all later ones"));
        for word in ["y", "ENABLE", "1"] {
            assert!(NixlEngineConfig::new(POSIX).with_parameter("use_posix_aio", word).validate().is_err());
        }
        NixlEngineConfig::new(POSIX).with_parameter("use_posix_aio", false).validate().unwrap();
    }

    #[test]
    fn limits_are_read_in_one_way_only() {
        for value in ["0x100", "256abc", "0", "-1", "many"] {
            let error =
                NixlEngineConfig::new(POSIX).with_parameter("ios_pool_size", value).validate().unwrap_err();
            assert!(error.to_string().contains(&format!("ios_pool_size is {value:?}")), "{error}");
        }
        NixlEngineConfig::new(POSIX).with_parameter("ios_pool_size", 256).validate().unwrap();
    }

    #[test]
    fn memory_of_3fs_is_not_mapped_anew() {
        let mut plain = NixlEngineConfig { threads: 2, ..NixlEngineConfig::new(THREE_FS) };
        plain.set_defaults();
        assert_eq!(plain.parameter("mem_config"), Some("dram"));
        let mapped = NixlEngineConfig::new(THREE_FS).with_parameter("mem_config", "auto");
        mapped.validate().unwrap();
        assert!(NixlEngineConfig { threads: 2, ..mapped }.validate().is_err());
    }
}
