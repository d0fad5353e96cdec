//! Environment variables as a value.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Beginnings of the names of variables that mean something here; others are not even kept.
const PREFIXES: [&str; 2] = ["HICACHE_", "SGLANG_HICACHE_NIXL_"];

/// Other variables that are looked at: where NIXL and its Python are, and what its object plugin would read.
pub(crate) const OTHERS: [&str; 13] = [
    "NIXL_LIB_DIR",
    "NIXL_PLUGIN_DIR",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PYTHONUSERBASE",
    "HOME",
    "PATH",
    "AWS_DEFAULT_BUCKET",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_CONFIG_FILE",
    "AWS_PROFILE",
];

/// Environment variables as the configuration sees them. Tests make one from pairs and never change the process.
///
/// ```
/// use hicache::Environment;
/// let environment = Environment::from_iter([("HICACHE_BACKEND", "memory"), ("EDITOR", "vi")]);
/// assert_eq!(environment.get("HICACHE_BACKEND").unwrap(), "memory");
/// assert!(environment.get("EDITOR").is_none());
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    python: Option<Python>,
}

/// The Python that a process runs, where it runs one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Python {
    /// The interpreter: with `-m hicache` it is the `hicache` command.
    pub executable: PathBuf,
    /// Where it finds packages, the first first.
    pub site_packages: Vec<PathBuf>,
}

impl fmt::Debug for Environment {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl Environment {
    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(name).map(OsString::as_os_str)
    }

    /// The Python that the process runs; `None` where it runs none.
    pub fn python(&self) -> Option<&Python> {
        self.python.as_ref()
    }

    /// The same with a Python.
    #[must_use]
    pub fn with_python(self, python: Python) -> Self {
        Self { python: Some(python), ..self }
    }

    /// Names of all variables that begin like one of ours.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let ours = variables.into_iter().filter_map(|(name, value)| {
            let name = name.into().into_string().ok()?;
            let ours =
                PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || OTHERS.contains(&name.as_str());
            ours.then(|| (name, value.into()))
        });
        Self { variables: ours.collect(), python: None }
    }
}

/// The variables of this process, now. The only place in the project that reads them; whoever has a `main` calls it
/// and hands the value on.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn process_environment() -> Environment {
    Environment { python: RUNNING.get().cloned(), ..std::env::vars_os().collect() }
}

static RUNNING: OnceLock<Python> = OnceLock::new();

/// Tells [`process_environment`] of the Python that this library was loaded into. The first call stays: a process runs
/// one.
pub fn loaded_into(python: Python) {
    let _ = RUNNING.set(python);
}
