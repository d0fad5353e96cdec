//! `cargo xtask tidy`: what ARCHITECTURE.md says is absent, is absent.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{cargo, root, say, tree};

/// No source file is longer.
const MOST_LINES: usize = 800;
/// Names of rooms that say nothing.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "helpers", "common", "misc", "types"];

pub(crate) fn run() -> Result<()> {
    let mut wrong = Vec::new();
    let files = tracked_files()?;
    let sources: Vec<(&String, String)> = files
        .iter()
        .filter(|path| path.ends_with(".rs"))
        .filter_map(|path| Some((path, std::fs::read_to_string(root().join(path)).ok()?)))
        .collect();
    if sources.len() < 20 {
        bail!("only {} sources found; tidy is looking in the wrong place", sources.len());
    }
    dependencies(&mut wrong)?;
    tree::look(&mut wrong)?;
    unsafe_files(&sources, &mut wrong)?;
    for (path, text) in &sources {
        shape(path, text, &mut wrong);
    }
    lints(&files, &mut wrong);
    if !wrong.is_empty() {
        bail!("{} things are not tidy:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    say(&format!("tidy: {} sources", sources.len()));
    Ok(())
}

fn tracked_files() -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("git did not start")?;
    if !output.status.success() {
        bail!("git ls-files ended with {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Who may depend on whom, of our own crates (invariants 1, 2 and 4).
fn dependencies(wrong: &mut Vec<String>) -> Result<()> {
    let output = cargo::cargo().args(["metadata", "--no-deps", "--format-version=1"]).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        let normal = package["dependencies"].as_array().into_iter().flatten();
        // Development dependencies may point anywhere: tests stand on the testkit.
        let normal = normal.filter(|dependency| dependency["kind"].is_null());
        let names = normal.filter_map(|dependency| dependency["name"].as_str().map(str::to_owned)).collect();
        graph.insert(package["name"].as_str().unwrap_or_default().to_owned(), names);
    }
    let forbidden_everywhere: &[&str] = &["lazy_static", "ctor", "openssl"];
    let core_forbidden = ["libc", "nix", "libloading", "pyo3", "aws-sdk-s3", "cudarc", "io-uring"];
    let layer = |name: &str| match name {
        "hicache-hashing" => 0,
        "hicache-core" => 1,
        "hicache-page-store"
        | "hicache-posix-uring"
        | "hicache-nixl-backend"
        | "hicache-gds"
        | "hicache-obj-s3"
        | "hicache-tiered"
        | "hicache-controller"
        | "hicache-testkit" => 2,
        "hicache" => 3,
        "hicache-cli" | "hicache-py" | "hicache-tests" | "xtask" => 4,
        _ => 99,
    };
    for (name, uses) in &graph {
        if layer(name) == 99 {
            wrong.push(format!("package {name} has no layer in xtask's tidy"));
        }
        for used in uses {
            let ours = graph.contains_key(used);
            if ours && layer(used) >= layer(name) && layer(name) < 4 {
                wrong.push(format!("{name} depends on {used}: parts of one layer don't know each other"));
            }
            if used == "pyo3" && name != "hicache-py" {
                wrong.push(format!("{name} depends on pyo3; only hicache-py knows Python"));
            }
            if forbidden_everywhere.contains(&used.as_str()) {
                wrong.push(format!("{name} depends on {used}"));
            }
            if name == "hicache-core" && core_forbidden.contains(&used.as_str()) {
                wrong.push(format!("hicache-core depends on {used}; it names no backend and does no I/O"));
            }
        }
    }
    Ok(())
}

/// `unsafe` stands only in the files that ARCHITECTURE.md lists (invariant 5), and the list has no file too many.
fn unsafe_files(sources: &[(&String, String)], wrong: &mut Vec<String>) -> Result<()> {
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let is_unsafe = |text: &str| {
        text.lines()
            .map(str::trim_start)
            .filter(|line| !line.starts_with("//"))
            .any(|line| ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|words| line.contains(words)))
    };
    for (path, text) in sources {
        // Tests and examples make foreign memory and canaries; what ships is what is listed.
        let tests = path.ends_with("_tests.rs") || path.contains("testkit") || path.starts_with("xtask/");
        let ships = path.contains("/src/") && !tests;
        let listed = architecture.contains(&format!("\n| `{path}` |"));
        if ships && is_unsafe(text) && !listed {
            wrong.push(format!("{path} has unsafe code and ARCHITECTURE.md does not list it"));
        }
        if listed && ships && !is_unsafe(text) {
            wrong.push(format!("{path} is listed in ARCHITECTURE.md for unsafe code and has none"));
        }
    }
    Ok(())
}

fn shape(path: &str, text: &str, wrong: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > MOST_LINES {
        wrong.push(format!("{path} has {lines} lines; {MOST_LINES} are the most"));
    }
    let mut parts = path.trim_end_matches(".rs").split('/');
    if parts.any(|part| EMPTY_NAMES.contains(&part)) {
        wrong.push(format!("{path} has a name that says nothing"));
    }
    if path.starts_with("xtask/") {
        return; // The words that are searched for stand here.
    }
    for (number, line) in text.lines().enumerate() {
        let at = || format!("{path}:{}", number + 1);
        // A test that others run in a process of its own, or that somebody runs who has the time, was not given up.
        let run_otherwise = ["a part of the others, which run it", "a long round"];
        let given_up = line.contains("#[ignore") && !run_otherwise.iter().any(|why| line.contains(why));
        if given_up || ["todo!(", "unimplemented!("].iter().any(|word| line.contains(word)) {
            wrong.push(format!("{} leaves something open", at()));
        }
        let reads_environment = line.contains("env::var") && path != "crates/hicache/src/environment.rs";
        if reads_environment && path.contains("/src/") {
            wrong.push(format!("{} reads the environment; only the facade does", at()));
        }
        if line.contains("static mut ") {
            wrong.push(format!("{} has a mutable static", at()));
        }
    }
}

/// Every package takes the workspace's lints.
fn lints(files: &[String], wrong: &mut Vec<String>) {
    // The fuzz targets are a workspace of their own.
    for path in files.iter().filter(|path| path.ends_with("/Cargo.toml") && !path.starts_with("fuzz/")) {
        let text = std::fs::read_to_string(root().join(path)).unwrap_or_default();
        if text.contains("[package]") && !text.contains("[lints]\nworkspace = true") {
            wrong.push(format!("{path} does not take the workspace's lints"));
        }
    }
}
