//! `cargo xtask matrix`: that every combination of features builds without a warning, with the oldest versions of what it stands
//! on and with the oldest compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::libclang::Libclang;
use crate::{cargo, root, say, tree};

/// Checks all combinations of features.
const CARGO_HACK: &str = "0.6.45";
/// What ships; the tests and tasks are built in the gate.
const NOT_SHIPPED: &[&str] = &["hicache-tests", "hicache-testkit", "xtask"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the parts whose name contains this: tree, features, oldest versions, oldest compiler, nixl-sys.
    #[arg(long)]
    only: Option<String>,
}

type Part = (&'static str, fn() -> Result<()>);

const PARTS: &[Part] = &[
    ("tree", default_tree),
    ("features", features),
    ("oldest versions", oldest_versions),
    ("oldest compiler", oldest_compiler),
    ("nixl-sys", nixl_sys),
];

/// The feature that links a foreign library and needs libclang to be built: looked at once, not in every combination.
const LINKED: &str = "nixl-sys";

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let parts: Vec<&Part> = PARTS.iter().filter(|(name, _)| wanted(name)).collect();
    if parts.is_empty() {
        bail!("no part has {:?} in its name", arguments.only.as_deref().unwrap_or_default());
    }
    for (name, part) in parts {
        say(&format!("\n=== {name}"));
        part().with_context(|| format!("{name:?} failed"))?;
    }
    say("\n=== the matrix holds");
    Ok(())
}

/// The table of NIXL's functions, filled from linked symbols.
fn nixl_sys() -> Result<()> {
    let mut clippy = cargo::cargo();
    Libclang::find()?.give(&mut clippy);
    clippy.args(["clippy", "--package", "hicache-nixl-backend", "--features", LINKED, "--all-targets"]);
    cargo::run(clippy.args(["--", "--deny", "warnings"]))
}

fn default_tree() -> Result<()> {
    let mut wrong = Vec::new();
    tree::look(&mut wrong)?;
    if wrong.is_empty() { Ok(()) } else { bail!(wrong.join("\n")) }
}

fn features() -> Result<()> {
    let hack = installed_hack()?;
    let mut command = Command::new(hack);
    command.current_dir(root()).args(["hack", "clippy", "--workspace", "--feature-powerset", "--keep-going"]);
    command.args(["--exclude-features", LINKED]);
    NOT_SHIPPED.iter().for_each(|package| _ = command.args(["--exclude", package]));
    cargo::run(command.args(["--", "--deny", "warnings"]))
}

/// The program, from `target/tools`; it is put there if it is missing.
fn installed_hack() -> Result<PathBuf> {
    let tools = root().join("target/tools");
    let hack = tools.join("bin/cargo-hack");
    if !hack.is_file() {
        let install = ["install", "--quiet", "--locked", "--version", CARGO_HACK, "cargo-hack", "--root"];
        cargo::run(cargo::cargo().args(install).arg(&tools))?;
    }
    Ok(hack)
}

/// With the oldest versions that the manifests say will do, in a copy, since that changes the lock file.
fn oldest_versions() -> Result<()> {
    let copy = root().join("target/matrix");
    copy_sources(&copy)?;
    let mut update = cargo::cargo();
    // An unstable option of a stable cargo; nothing that is built sees it.
    update.current_dir(&copy).env("RUSTC_BOOTSTRAP", "1");
    cargo::run(update.args(["update", "--quiet", "-Z", "direct-minimal-versions"]))?;
    let mut check = cargo::cargo();
    check.current_dir(&copy).env("CARGO_TARGET_DIR", root().join("target/matrix-build"));
    Libclang::find()?.give(&mut check);
    check.args(["check", "--workspace", "--all-features"]);
    NOT_SHIPPED.iter().for_each(|package| _ = check.args(["--exclude", package]));
    cargo::run(&mut check)
}

fn copy_sources(copy: &Path) -> Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output()
        .context("git did not start")?;
    if !listed.status.success() {
        bail!("git ls-files ended with {}", listed.status);
    }
    if copy.is_dir() {
        fs::remove_dir_all(copy)?;
    }
    for path in String::from_utf8(listed.stdout)?.split('\0').filter(|path| !path.is_empty()) {
        let (from, to) = (root().join(path), copy.join(path));
        // A file that was removed and not yet committed is no part of it.
        if from.is_file() {
            fs::create_dir_all(to.parent().context("a file without a folder")?)?;
            fs::copy(from, to)?;
        }
    }
    Ok(())
}

/// With the compiler that the manifests name, if it is here.
fn oldest_compiler() -> Result<()> {
    let output = cargo::cargo().args(["metadata", "--no-deps", "--format-version=1"]).output()?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo printed no JSON")?;
    let oldest = metadata["packages"][0]["rust_version"].as_str().context("no rust-version is declared")?;
    let this = Command::new("rustc").arg("--version").output().context("rustc did not start")?;
    let this = String::from_utf8_lossy(&this.stdout).into_owned();
    let version = this.split_whitespace().nth(1).unwrap_or_default();
    let mut check = cargo::cargo();
    if version == oldest || version.starts_with(&format!("{oldest}.")) {
        say(&format!("this compiler, {version}, is the oldest that is promised"));
    } else if Command::new("rustup")
        .args(["run", oldest, "rustc", "--version"])
        .output()
        .is_ok_and(|out| out.status.success())
    {
        check = Command::new("rustup");
        check.current_dir(root()).args(["run", oldest, "cargo"]);
        check.env("CARGO_TARGET_DIR", root().join("target/matrix-build"));
    } else {
        say(&format!("went without: compiler {oldest}; this is {version}"));
        return Ok(());
    }
    Libclang::find()?.give(&mut check);
    check.args(["check", "--workspace", "--all-features"]);
    NOT_SHIPPED.iter().for_each(|package| _ = check.args(["--exclude", package]));
    cargo::run(&mut check)
}
