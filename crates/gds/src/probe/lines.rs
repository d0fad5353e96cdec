//! What the process says, line by line.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which way bytes go between files and the memory of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Past host memory, by the nvidia-fs kernel module.
    NvFs,
    /// Past host memory, by the kernel's own PCI peer-to-peer transfers.
    P2pDma,
    /// Through host memory, by cuFile's compatibility mode. That is not GPUDirect Storage.
    Compat,
    /// Not through cuFile, for this reason.
    Unavailable(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NvFs => f.write_str("GPUDirect Storage by nvidia-fs"),
            Self::P2pDma => f.write_str("GPUDirect Storage by PCI peer-to-peer transfers of the kernel"),
            Self::Compat => f.write_str("cuFile's compatibility mode, which copies through host memory"),
            Self::Unavailable(reason) => write!(f, "cuFile can't be used: {reason}"),
        }
    }
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What, in a few words.
    pub name: String,
    /// Whether it worked.
    pub passed: bool,
    /// What was seen.
    pub detail: String,
}

/// A line of the process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Line {
    /// This is tried now. Where nothing comes after it, it hung or crashed.
    Begins(String),
    /// This was seen.
    Seen(Step),
    /// Whether pages of a device can be staged, or why not.
    Staged(Result<(), String>),
    /// What it comes to, before batches are tried: they have crashed.
    Way(State),
    /// What it comes to. The last line.
    Ends(State),
}
