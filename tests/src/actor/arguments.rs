//! What an actor is opened with. The same value makes the command line and is read from it.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Arguments of the actor.
#[derive(Clone, Debug, Parser)]
#[command(name = "hicache-actor", about = "Opens a store and obeys commands from stdin (for tests)")]
pub struct ActorArguments {
    /// Directory of the store.
    #[arg(long)]
    pub root: PathBuf,
    /// Name of the model.
    #[arg(long)]
    pub namespace: String,
    /// Rank of two, which makes another namespace.
    #[arg(long)]
    pub rank: Option<u32>,
    /// Whether it has a set of its own.
    #[arg(long, value_enum, default_value_t = Role::Writer)]
    pub role: Role,
    /// Limit on physical bytes.
    #[arg(long)]
    pub capacity: Option<u64>,
    /// Length of most pages.
    #[arg(long, default_value_t = 4096)]
    pub page_bytes: usize,
    /// Size of a segment.
    #[arg(long, default_value_t = 1 << 20)]
    pub segment_bytes: u64,
    /// What moves the pages.
    #[arg(long, value_enum, default_value_t = EngineKind::Pread)]
    pub engine: EngineKind,
    /// What the engine does wrong.
    #[arg(long, value_enum, default_value_t = FaultKind::None)]
    pub faults: FaultKind,
    /// Whether answered pages are synced.
    #[arg(long)]
    pub synced: bool,
    /// Start of all random numbers.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// File of what was done to the keys of the namespace.
    #[arg(long)]
    pub history: Option<PathBuf>,
    /// How many keys it has.
    #[arg(long, default_value_t = 2048)]
    pub keys: u64,
    /// How many processes own them.
    #[arg(long, default_value_t = 1)]
    pub owners: u64,
    /// Which of them this is; it owns every `owners`-th block of 64 keys.
    #[arg(long)]
    pub owner: Option<u64>,
    /// Pages may be evicted, damaged or lost to failing engines: that one is missing says nothing.
    #[arg(long)]
    pub may_lose: bool,
    /// Files were damaged: pages that were replaced may come back.
    #[arg(long)]
    pub may_be_stale: bool,
    /// File to which every wrong, stale or lost page is appended at once.
    #[arg(long)]
    pub findings: Option<PathBuf>,
}

/// Whether a process has a set of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// It stores.
    Writer,
    /// It loads what others store.
    Reader,
}

/// What moves the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// Threads with pread and pwrite.
    Pread,
    /// io_uring; pread where the machine refuses it.
    Uring,
}

/// What the engine does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FaultKind {
    /// Nothing.
    None,
    /// Some operations take 20 ms more.
    Slow,
    /// Some operations fail, fall short, or read and write wrong bits.
    Failing,
}

impl ActorArguments {
    /// A writer of namespace `namespace` in `root`, all else as on a bare command line.
    pub fn new(root: impl Into<PathBuf>, namespace: &str) -> Self {
        let root: PathBuf = root.into();
        Self::parse_from([
            "hicache-actor".as_ref(),
            "--root".as_ref(),
            root.as_os_str(),
            "--namespace".as_ref(),
            namespace.as_ref(),
        ])
    }

    /// The command line that gives this value.
    pub fn command_line(&self) -> Vec<String> {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let path = |path: &PathBuf| path.display().to_string();
        let mut line = Vec::new();
        let mut give = |option: &str, value: Option<String>| {
            if let Some(value) = value {
                line.extend([format!("--{option}"), value]);
            }
        };
        give("root", Some(path(&self.root)));
        give("namespace", Some(self.namespace.clone()));
        give("rank", self.rank.map(|rank| rank.to_string()));
        give("role", Some(name(self.role.to_possible_value())));
        give("capacity", self.capacity.map(|bytes| bytes.to_string()));
        give("page-bytes", Some(self.page_bytes.to_string()));
        give("segment-bytes", Some(self.segment_bytes.to_string()));
        give("engine", Some(name(self.engine.to_possible_value())));
        give("faults", Some(name(self.faults.to_possible_value())));
        give("seed", Some(self.seed.to_string()));
        give("history", self.history.as_ref().map(path));
        give("keys", Some(self.keys.to_string()));
        give("owners", Some(self.owners.to_string()));
        give("owner", self.owner.map(|owner| owner.to_string()));
        give("findings", self.findings.as_ref().map(path));
        for (flag, set) in
            [("synced", self.synced), ("may-lose", self.may_lose), ("may-be-stale", self.may_be_stale)]
        {
            if set {
                line.push(format!("--{flag}"));
            }
        }
        line
    }
}
