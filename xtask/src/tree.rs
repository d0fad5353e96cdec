//! What a build pulls in: the default one has no TLS, no SDK and no foreign library, and needs no C compiler.

use anyhow::{Context, Result, bail};

use crate::{cargo, say};

/// Packages whose default build is guarded.
const GUARDED: &[&str] = &["hicache", "hicache-cli"];
/// Families that come only with a feature: whole names, or beginnings where they end in `*`.
const ONLY_BY_FEATURE: &[&str] = &[
    "aws-*",
    "bindgen",
    "cc",
    "cmake",
    "cudarc",
    "hyper",
    "libloading",
    "native-tls",
    "nixl-*",
    "openssl*",
    "pkg-config",
    "pyo3*",
    "reqwest",
    "ring",
    "rustls*",
];
/// Names that end in `-sys` and are constants only, in Rust.
const ONLY_CONSTANTS: &[&str] = &["linux-raw-sys"];

/// Names what is wrong.
pub(crate) fn look(wrong: &mut Vec<String>) -> Result<()> {
    for package in GUARDED {
        let packages = packages_of(package)?;
        say(&format!("{package}: {} packages by default", packages.len()));
        for name in packages.iter().filter(|name| is_forbidden(name)) {
            wrong.push(format!("{package} pulls {name} in by default; it belongs behind a feature"));
        }
    }
    Ok(())
}

fn packages_of(package: &str) -> Result<Vec<String>> {
    let edges =
        ["tree", "--package", package, "--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    let output = cargo::cargo().args(edges).output().context("cargo tree did not start")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut names: Vec<String> =
        text.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn is_forbidden(name: &str) -> bool {
    let listed = ONLY_BY_FEATURE.iter().any(|listed| match listed.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == *listed,
    });
    listed || (name.ends_with("-sys") && !ONLY_CONSTANTS.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_libraries_are_told_from_constants() {
        for name in ["aws-sdk-s3", "rustls-webpki", "nixl-sys", "zstd-sys", "cc"] {
            assert!(is_forbidden(name), "{name}");
        }
        for name in ["linux-raw-sys", "tokio", "ccc", "rust"] {
            assert!(!is_forbidden(name), "{name}");
        }
    }
}
