//! Running cargo and what it built.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::root;

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root());
    command
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?} did not start"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Builds the `hicache` binary in release and answers where it is.
pub(crate) fn build_hicache(arguments: &[&str]) -> Result<PathBuf> {
    let mut build = cargo();
    build.args([
        "build",
        "--release",
        "--package",
        "hicache-cli",
        "--message-format=json-render-diagnostics",
    ]);
    build.args(arguments);
    let output = build.stderr(Stdio::inherit()).output().context("cargo build did not start")?;
    if !output.status.success() {
        bail!("the build of hicache ended with {}", output.status);
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "hicache")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo did not say where it put hicache")
}

/// The directory that cargo builds into.
pub(crate) fn target() -> Result<PathBuf> {
    let output = cargo().args(["metadata", "--no-deps", "--format-version=1"]).output()?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .context("cargo metadata names no target directory")
}

/// Where programs are looked for.
#[expect(clippy::disallowed_methods, reason = "a tool, not a library")]
pub(crate) fn search_path() -> String {
    std::env::var("PATH").unwrap_or_default()
}
