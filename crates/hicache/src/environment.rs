//! Environment variables as a value.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;

/// Beginnings of the names of variables that mean something here; others are not even kept.
const PREFIXES: [&str; 2] = ["HICACHE_", "SGLANG_HICACHE_NIXL_"];

/// Other variables that are looked at: where NIXL and its Python are, and what its object plugin would read.
pub(crate) const OTHERS: [&str; 10] = [
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
pub struct Environment(BTreeMap<String, OsString>);

impl fmt::Debug for Environment {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(name).map(OsString::as_os_str)
    }

    /// Names of all variables that begin like one of ours.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
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
        Self(ours.collect())
    }
}

/// The variables of this process, now. The only place in the project that reads them; whoever has a `main` calls it
/// and hands the value on.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn process_environment() -> Environment {
    std::env::vars_os().collect()
}
