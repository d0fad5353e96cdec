//! What the engines can be told.

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

/// Settings of a [`UringEngine`](crate::UringEngine).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UringConfig {
    /// How files are read and written.
    pub io: IoMode,
    /// Operations that each ring keeps in flight; 1 to [`UringConfig::MAX_DEPTH`].
    pub depth: u32,
    /// Rings, each with a thread of its own; batches go to them in turn. 1 to [`UringConfig::MAX_RINGS`].
    pub rings: usize,
    /// Whether memory is registered with the kernel, which then need not look its pages up for each operation.
    pub register_buffers: bool,
    /// Slots of the kernel's table of files; a file takes one, or two where it can be used directly. Files beyond it
    /// work, a little slower. 0 to [`UringConfig::MAX_FILES`].
    pub registered_files: u32,
    /// Whether transparent huge pages are asked for on large memory of somebody else. Regions of ours ask for them
    /// when they are allocated.
    pub huge_pages: bool,
}

impl UringConfig {
    /// Largest `depth`.
    pub const MAX_DEPTH: u32 = 4096;
    /// Largest `rings`.
    pub const MAX_RINGS: usize = 64;
    /// Largest `registered_files`.
    pub const MAX_FILES: u32 = 32768;

    /// Refuses what can't be.
    ///
    /// # Errors
    /// `Config`, naming the field, its value and its limits.
    pub fn validate(&self) -> Result<()> {
        within("depth", u64::from(self.depth), 1, u64::from(Self::MAX_DEPTH))?;
        within("rings", self.rings as u64, 1, Self::MAX_RINGS as u64)?;
        within("registered_files", u64::from(self.registered_files), 0, u64::from(Self::MAX_FILES))
    }
}

impl Default for UringConfig {
    fn default() -> Self {
        Self {
            io: IoMode::Auto,
            depth: 64,
            rings: 1,
            register_buffers: true,
            registered_files: 1024,
            huge_pages: true,
        }
    }
}

/// Settings of a [`PreadEngine`](crate::PreadEngine).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreadConfig {
    /// How files are read and written.
    pub io: IoMode,
    /// Threads, each with one operation in flight; 1 to [`PreadConfig::MAX_THREADS`].
    pub threads: usize,
    /// As [`UringConfig::huge_pages`].
    pub huge_pages: bool,
}

impl PreadConfig {
    /// Largest `threads`.
    pub const MAX_THREADS: usize = 256;

    /// Refuses what can't be.
    ///
    /// # Errors
    /// `Config`, naming the field, its value and its limits.
    pub fn validate(&self) -> Result<()> {
        within("threads", self.threads as u64, 1, Self::MAX_THREADS as u64)
    }
}

impl Default for PreadConfig {
    fn default() -> Self {
        Self { io: IoMode::Auto, threads: 4, huge_pages: true }
    }
}

fn within(field: &str, value: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::config(format!("{field} is {value}; it must be {least} to {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in IoMode::ALL {
            assert_eq!(mode.to_string().parse::<IoMode>().unwrap(), mode);
        }
        assert!("Direct".parse::<IoMode>().unwrap_err().to_string().contains("\"direct\""));
    }

    #[test]
    fn bad_values_are_named() {
        let bad = UringConfig { depth: 0, ..UringConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("depth is 0; it must be 1 to 4096"));
        assert!(UringConfig { rings: 65, ..UringConfig::default() }.validate().is_err());
        assert!(PreadConfig { threads: 0, ..PreadConfig::default() }.validate().is_err());
        UringConfig::default().validate().unwrap();
        PreadConfig::default().validate().unwrap();
    }
}
