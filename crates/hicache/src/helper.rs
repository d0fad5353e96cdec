//! The program that probes what may hang or crash, in a process of its own.

use std::ffi::OsString;

use crate::config::Config;

/// The program and its first arguments: what `probe_helper` says, else `-m hicache` of the Python that this runs in, else
/// `hicache` on `PATH`. Nothing where there is none of them.
pub(crate) fn words(config: &Config) -> Option<Vec<OsString>> {
    if let Some(words) = config.settings().probe_helper.as_deref() {
        return Some(words.iter().map(OsString::from).collect());
    }
    // A program that embeds Python may have no interpreter.
    if let Some(python) = config.python().filter(|python| python.executable.is_absolute()) {
        return Some(vec![python.executable.clone().into(), "-m".into(), "hicache".into()]);
    }
    let path = config.variable("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(path).map(|directory| directory.join("hicache")).find(|file| file.is_file());
    found.map(|program| vec![program.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::{Environment, Python};

    fn with(environment: Environment) -> Config {
        Config::builder().environment(&environment).build().unwrap()
    }

    #[test]
    fn the_helper_is_what_is_set_else_this_python_else_on_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = Environment::from_iter([("PATH", folder.path().as_os_str())]);
        assert_eq!(words(&with(path.clone())), None);
        let program = folder.path().join("hicache");
        std::fs::write(&program, "").unwrap();
        assert_eq!(words(&with(path.clone())), Some(vec![program.clone().into()]));
        let python = |executable: &str| Python { executable: executable.into(), site_packages: Vec::new() };
        let embedded = path.clone().with_python(python("python3"));
        assert_eq!(words(&with(embedded)), Some(vec![program.into()]), "no interpreter");
        let path = path.with_python(python("/opt/python"));
        let of_python: Vec<OsString> = ["/opt/python", "-m", "hicache"].map(OsString::from).to_vec();
        assert_eq!(words(&with(path.clone())), Some(of_python));
        let set = Config::builder().environment(&path).set("probe_helper", "/bin/own").build().unwrap();
        assert_eq!(words(&set), Some(vec!["/bin/own".into()]));
    }
}
