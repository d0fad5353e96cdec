//! An agent of the library, its plugins, and backends that they make.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::ffi::CString;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use hicache_core::{Error, ErrorKind, ForkMark, Result};

use crate::NIXL;
use crate::ending;
use crate::handles::{AgentHandle, BackendName, Options, Pairs, Parameters, c_text};
use crate::library::Library;
use crate::memory::{MemoryType, Registered};
use crate::reaper::Reaper;
use crate::request::Descriptor;

/// An agent: the one to whom backends belong. It takes its own lock in every call, so it can be used from any thread;
/// a transfer that is being posted holds the others up, so an engine has an agent for each of its threads.
///
/// It ends when the last clone, backend, registration and request is gone.
#[derive(Clone)]
pub struct Agent(pub(crate) Arc<AgentInner>);

pub(crate) struct AgentInner {
    pub(crate) handle: ManuallyDrop<AgentHandle>,
    pub(crate) name: CString,
    pub(crate) reaper: Reaper,
    /// The library's locks and threads are the parent's: in a child it is not called.
    pub(crate) fork: ForkMark,
}

impl AgentInner {
    /// # Errors
    /// `Closed` in a forked child.
    pub(crate) fn refuse_fork(&self) -> Result<()> {
        if self.fork.is_child() { Err(ForkMark::refusal("agent").with_backend(NIXL)) } else { Ok(()) }
    }
}

impl Drop for AgentInner {
    fn drop(&mut self) {
        if !self.fork.is_child() {
            // SAFETY: it is not used again, since this is the end of what has it.
            unsafe { ManuallyDrop::drop(&mut self.handle) };
        }
    }
}

/// What a plugin says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginParameters {
    /// Kinds of memory on either side of a transfer.
    pub memory: Vec<MemoryType>,
    /// Parameters with their defaults, by name.
    pub parameters: Vec<(String, String)>,
}

impl Agent {
    /// Makes an agent. Names need not differ between agents of a process; a number is added to `name`.
    ///
    /// # Errors
    /// `Unavailable` if the library makes none; `Config` for a name with a zero byte in it.
    pub fn new(library: &Arc<Library>, name: &str) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name =
            c_text(&format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))?;
        let handle = ManuallyDrop::new(AgentHandle::create(library, &name)?);
        Ok(Self(Arc::new(AgentInner { handle, name, reaper: Reaper::default(), fork: ForkMark::new() })))
    }

    /// The library.
    pub fn library(&self) -> &Arc<Library> {
        self.0.handle.library()
    }

    /// Names of the plugins whose files are there, sorted. Whether one works is another question.
    ///
    /// # Errors
    /// `Unavailable` if the library can't tell.
    pub fn plugins(&self) -> Result<Vec<String>> {
        self.0.refuse_fork()?;
        let mut plugins = self.0.handle.plugins()?;
        plugins.sort();
        plugins.dedup();
        Ok(plugins)
    }

    /// Loads `plugin` and asks it for its parameters.
    ///
    /// # Errors
    /// `Unavailable` if it can't be loaded; `Config` for a name with a zero byte in it.
    pub fn plugin_parameters(&self, plugin: &str) -> Result<PluginParameters> {
        self.0.refuse_fork()?;
        let described = self.0.handle.plugin_parameters(&c_text(plugin)?)?;
        Ok(PluginParameters::from(described))
    }

    /// Has `plugin` make a backend. `parameters` replace those of the plugin's defaults that they name.
    ///
    /// # Errors
    /// `Unavailable` if it makes none: the library says no more than that it failed, and the cause in its log.
    pub fn create_backend(&self, plugin: &str, parameters: &[(String, String)]) -> Result<BackendHandle> {
        self.0.refuse_fork()?;
        let name = c_text(plugin)?;
        let raw = Parameters::new(self.library(), parameters)?;
        let backend = self.0.handle.create_backend(&name, &raw).map_err(|error| {
            let message = format!("{}, with {}", error.message(), listed(parameters));
            Error::new(error.kind(), message).with_backend(NIXL).with_operation("create backend")
        })?;
        ending::wait_at_the_end();
        let options = Options::of(&backend)?;
        let plugin = plugin.to_owned();
        Ok(BackendHandle(Arc::new(BackendInner {
            options,
            memory: Mutex::default(),
            backend,
            plugin,
            agent: self.clone(),
        })))
    }
}

/// As [`BackendHandle::settles`].
fn failure_settles(plugin: &str, posted: bool, descriptors: usize, is_since_1_5_0: bool) -> bool {
    match plugin {
        "POSIX" => is_since_1_5_0,
        "GDS_MT" => is_since_1_5_0 && !posted,
        // In all versions a failure is told of once the only part has ended, and a post fails before it has begun.
        "OBJ" => descriptors == 1,
        _ => false,
    }
}

/// Parameters for a message. Secrets are left out.
fn listed(parameters: &[(String, String)]) -> String {
    if parameters.is_empty() {
        return "no parameters".to_owned();
    }
    let secret = |key: &str| key.contains("key") || key.contains("token");
    let shown = parameters
        .iter()
        .map(|(key, value)| if secret(key) { format!("{key}=…") } else { format!("{key}={value}") });
    shown.collect::<Vec<_>>().join(" ")
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl From<(Vec<u32>, Pairs)> for PluginParameters {
    fn from((memory, mut parameters): (Vec<u32>, Pairs)) -> Self {
        parameters.sort();
        Self { memory: memory.into_iter().filter_map(MemoryType::from_code).collect(), parameters }
    }
}

/// A backend: one plugin at work in one agent. Clones are the same backend.
#[derive(Clone)]
pub struct BackendHandle(pub(crate) Arc<BackendInner>);

pub(crate) struct BackendInner {
    pub(crate) options: Options,
    /// Ranges of memory that are registered, for requests that keep their registrations.
    pub(crate) memory: Mutex<Vec<(Descriptor, Weak<Registered>)>>,
    backend: BackendName,
    plugin: String,
    // Last: what is above names something of the agent's.
    pub(crate) agent: Agent,
}

impl BackendHandle {
    /// The plugin, as the library calls it.
    pub fn plugin(&self) -> &str {
        &self.0.plugin
    }

    /// The agent that it belongs to.
    pub fn agent(&self) -> &Agent {
        &self.0.agent
    }

    /// Kinds of memory and parameters as they are in force.
    ///
    /// # Errors
    /// `Unexpected` if the library can't tell.
    pub fn parameters(&self) -> Result<PluginParameters> {
        self.0.agent.0.refuse_fork()?;
        self.0.agent.0.handle.backend_parameters(&self.0.backend).map(PluginParameters::from)
    }

    /// Whether a request that has failed is known to have nothing in flight any more. The POSIX plugin waits for its
    /// parts, and takes those back that it could not post, unless its pool is empty, which the engine sees to; GDS_MT
    /// waits; an object alone in its request has ended with it. Others tell of the first failure while the rest goes on.
    pub(crate) fn settles(&self, posted: bool, descriptors: usize) -> bool {
        failure_settles(self.plugin(), posted, descriptors, self.agent().library().is_since_1_5_0())
    }

    /// An error that names the plugin and what was tried.
    pub(crate) fn error(&self, kind: ErrorKind, what: &str) -> Error {
        Error::new(kind, format!("{}: {what}", self.plugin())).with_backend(NIXL)
    }
}

impl fmt::Debug for BackendHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendHandle").field("plugin", &self.0.plugin).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_the_end_of_an_object_alone_in_its_request() {
        for (posted, is_since_1_5_0) in [(false, false), (false, true), (true, false), (true, true)] {
            assert!(failure_settles("OBJ", posted, 1, is_since_1_5_0));
            assert!(!failure_settles("OBJ", posted, 2, is_since_1_5_0));
            assert_eq!(failure_settles("POSIX", posted, 2, is_since_1_5_0), is_since_1_5_0);
            assert_eq!(failure_settles("GDS_MT", posted, 1, is_since_1_5_0), is_since_1_5_0 && !posted);
            assert!(!failure_settles("GDS", posted, 1, is_since_1_5_0));
        }
    }

    #[test]
    fn secrets_are_not_in_messages() {
        let pairs = [("bucket", "kv"), ("secret_key", "hush"), ("session_token", "hush")];
        let pairs: Vec<_> = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(listed(&pairs), "bucket=kv secret_key=… session_token=…");
    }
}
