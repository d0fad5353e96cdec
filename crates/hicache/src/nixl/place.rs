//! Where NIXL is looked for.

use std::path::{Path, PathBuf};

use hicache_nixl_backend::{LibrarySearch, NixlPlace};

use crate::config::Config;

/// From the configuration and the variables that say where things are.
pub(super) fn place(config: &Config) -> NixlPlace {
    let nixl = &config.settings().nixl;
    let variable = |name| config.variable(name).map(PathBuf::from);
    let site_packages = nixl.site_packages.clone().unwrap_or_else(|| active_python(config));
    let search = LibrarySearch {
        path: nixl.library.clone(),
        library_folder: variable("NIXL_LIB_DIR"),
        site_packages,
        cuda_major: cuda_major(Path::new("/proc/driver/nvidia/version")),
    };
    NixlPlace { search, plugin_directory: variable("NIXL_PLUGIN_DIR") }
}

/// Site-packages of the Python that this process runs, or else of the one that a shell with these variables would start.
fn active_python(config: &Config) -> Vec<PathBuf> {
    if let Some(python) = config.python() {
        return python.site_packages.clone();
    }
    let named = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(|name| config.variable(name));
    let path = config.variable("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(path).find(|directory| directory.join("python3").is_file());
    let on_path = on_path.and_then(|directory| directory.parent().map(Path::to_owned));
    let mut found = Vec::new();
    for prefix in named.map(PathBuf::from).chain(on_path) {
        for packages in packages_of(&prefix) {
            if !found.contains(&packages) {
                found.push(packages);
            }
        }
    }
    found
}

/// `lib/python3.*/site-packages`, and Debian's `dist-packages`, under a prefix, the newest version first.
fn packages_of(prefix: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for lib in ["lib", "lib64", "local/lib"] {
        let entries = std::fs::read_dir(prefix.join(lib)).into_iter().flatten().flatten();
        let mut pythons: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")))
            .collect();
        pythons.sort_by_key(|python| std::cmp::Reverse(minor(python)));
        for python in pythons {
            let packages = ["site-packages", "dist-packages"].map(|name| python.join(name));
            found.extend(packages.into_iter().filter(|packages| packages.is_dir()));
        }
    }
    found
}

/// `11` of `python3.11`.
fn minor(python: &Path) -> u32 {
    let name = python.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.trim_start_matches("python3.").parse().unwrap_or_default()
}

/// The newest CUDA that the driver serves, by its own version; `None` where there is no driver.
fn cuda_major(driver: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(driver).ok()?;
    let major = text.split_whitespace().find_map(|word| {
        let (major, rest) = word.split_once('.')?;
        rest.chars().next()?.is_ascii_digit().then(|| major.parse::<u32>().ok()).flatten()
    })?;
    // Drivers from 580 on serve CUDA 13.
    Some(if major >= 580 { 13 } else { 12 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::{Environment, Python};

    #[test]
    fn the_active_python_is_looked_at_first() {
        let root = tempfile::tempdir().unwrap();
        let packages = |prefix: &str, python: &str| {
            let path = root.path().join(prefix).join("lib").join(python).join("site-packages");
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let (old, new) = (packages("venv", "python3.9"), packages("venv", "python3.11"));
        let system = packages("usr", "python3.13");
        std::fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        std::fs::write(root.path().join("usr/bin/python3"), "").unwrap();
        let bin = root.path().join("usr/bin").display().to_string();
        let variables = Environment::from_iter([
            ("VIRTUAL_ENV", root.path().join("venv").display().to_string()),
            ("PATH", format!("/nowhere:{bin}")),
            ("NIXL_LIB_DIR", "/opt/nixl/lib".to_owned()),
            ("NIXL_PLUGIN_DIR", "/opt/nixl/plugins".to_owned()),
        ]);
        let config = Config::builder().environment(&variables).build().unwrap();
        let found = place(&config);
        assert_eq!(found.search.site_packages, [new, old, system]);
        assert_eq!(found.search.library_folder.as_deref(), Some(Path::new("/opt/nixl/lib")));
        assert_eq!(found.plugin_directory.as_deref(), Some(Path::new("/opt/nixl/plugins")));
        let python = Python { executable: "/bin/python".into(), site_packages: vec!["/own".into()] };
        let inside = variables.clone().with_python(python);
        let config = Config::builder().environment(&inside).build().unwrap();
        assert_eq!(place(&config).search.site_packages, [Path::new("/own")]);
        let given =
            Config::builder().environment(&inside).set("nixl.site_packages", "/s,/t").build().unwrap();
        assert_eq!(place(&given).search.site_packages, [Path::new("/s"), Path::new("/t")]);
        assert!(config.warnings().is_empty(), "{:?}", config.warnings());
    }

    #[test]
    fn the_driver_says_which_cuda_it_serves() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("version");
        let line = |version: &str| {
            format!("NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Tue\nGCC 12.3\n")
        };
        for (version, major) in [("570.86.15", Some(12)), ("580.65.06", Some(13)), ("none", None)] {
            std::fs::write(&file, line(version).lines().next().unwrap()).unwrap();
            assert_eq!(cuda_major(&file), major, "{version}");
        }
        assert_eq!(cuda_major(&root.path().join("missing")), None);
    }
}
