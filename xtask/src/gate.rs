//! `cargo xtask test`: everything that must hold, stage by stage, with what each took.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{cargo, python, say, sglang, tidy};

/// The only target that the sanitizer of the stable compiler is used on.
const SANITIZED: &str = "x86_64-unknown-linux-gnu";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Runs only the stages whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Runs the wheel in a real SGLang too: a quarter of an hour more, and 3.6 GB under `target/`.
    #[arg(long)]
    sglang: bool,
}

type Stage = (&'static str, fn() -> Result<()>);

/// Programs that some tests use, and go without otherwise, with the package that has them.
const TOOLS: &[(&str, &str)] = &[("strace", "strace"), ("mkfs.ext4", "e2fsprogs"), ("mount", "mount")];

/// The stage that runs only when it is asked for.
const SGLANG: &str = "sglang";

const STAGES: &[Stage] = &[
    ("tools", tools),
    ("tidy", tidy::run),
    ("format", format),
    ("lints", lints),
    ("lints without default features", lints_bare),
    ("lints of the object store", lints_object_store),
    ("fuzz targets", fuzz_targets),
    ("tests", tests),
    ("tests on the release binary", release_tests),
    ("address sanitizer", sanitizer),
    ("docs", docs),
    ("python package", python::stage),
    (SGLANG, sglang::stage),
];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut took: Vec<(&str, Duration)> = Vec::new();
    for (name, stage) in STAGES {
        let wanted = match &arguments.only {
            Some(only) => name.contains(only.as_str()),
            None => *name != SGLANG || arguments.sglang,
        };
        if !wanted {
            continue;
        }
        say(&format!("\n=== {name}"));
        let begun = Instant::now();
        stage().with_context(|| format!("stage {name:?} failed"))?;
        took.push((name, begun.elapsed()));
    }
    if took.is_empty() {
        bail!("no stage has {:?} in its name", arguments.only.as_deref().unwrap_or_default());
    }
    say("\n=== all stages passed");
    for (name, time) in &took {
        say(&format!("{:>7.1} s  {name}", time.as_secs_f64()));
    }
    let sum: Duration = took.iter().map(|(_, time)| *time).sum();
    say(&format!("{:>7.1} s  in all", sum.as_secs_f64()));
    Ok(())
}

/// A machine that runs the gate and nothing else gets what is missing, if it lets us; nobody else's is changed.
fn tools() -> Result<()> {
    let has = |tool: &str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
        found.is_ok_and(|output| output.status.success())
    };
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(tool, _)| !has(tool)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        say("everything is there");
    } else if !in_ci() || !has("apt-get") {
        say(&format!("went without: packages {missing:?}; the tests that want them say so"));
    } else {
        let apt = |arguments: &[&str]| Command::new("apt-get").args(["-q", "-y"]).args(arguments).status();
        apt(&["update"])?;
        let installed =
            apt(&["install", "--no-install-recommends"].iter().chain(&missing).copied().collect::<Vec<_>>())?;
        say(&format!("{missing:?} were to be installed: {installed}"));
    }
    Ok(())
}

fn format() -> Result<()> {
    cargo::run(cargo::cargo().args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    cargo::run(cargo::cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
}

fn lints_bare() -> Result<()> {
    let arguments = ["clippy", "--package", "hicache", "--no-default-features", "--", "--deny", "warnings"];
    cargo::run(cargo::cargo().args(arguments))
}

fn lints_object_store() -> Result<()> {
    let features = ["--features", "hicache/obj-s3,hicache/tiered,hicache-cli/obj-s3"];
    let packages = ["clippy", "--package", "hicache", "--package", "hicache-cli", "--all-targets"];
    cargo::run(cargo::cargo().args(packages).args(features).args(["--", "--deny", "warnings"]))
}

/// That they still compile. Without the feature that links libFuzzer, since that needs a C++ compiler.
fn fuzz_targets() -> Result<()> {
    let arguments = ["check", "--manifest-path", "fuzz/Cargo.toml", "--no-default-features", "--locked"];
    let mut check = cargo::cargo();
    check.args(arguments).env("CARGO_TARGET_DIR", crate::root().join("target/fuzz"));
    cargo::run(&mut check)
}

fn tests() -> Result<()> {
    // Output is shown: tests that go without something (root, a kernel feature, the trace) say so there.
    let arguments = ["test", "--workspace", "--exclude", "hicache-tests", "--", "--show-output"];
    counted(cargo::cargo().args(arguments))?;
    let features = ["test", "--package", "hicache", "--features", "obj-s3,tiered", "--", "--show-output"];
    counted(cargo::cargo().args(features))
}

fn release_tests() -> Result<()> {
    // Figures count in release only, and side by side they would measure each other.
    let end = ["--", "--show-output", "--test-threads=1"];
    let millions = ["test", "--release", "--package", "hicache-page-store", "--test", "million"];
    counted(cargo::cargo().args(millions).args(end))?;
    counted(cargo::cargo().args(["test", "--release", "--package", "hicache-tests"]).args(end))
}

/// Runs tests, passes their output on, and tells what was skipped: a line of a test that begins with `skipped:`. With
/// `CI=true` a backend that should run and does not is a failure.
fn counted(command: &mut Command) -> Result<()> {
    use std::io::{BufRead, BufReader};
    let mut child = command.stdout(std::process::Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("no output")?;
    let (mut skipped, mut tests) = (Vec::new(), 0_u64);
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line.trim_start().starts_with("skipped:") || line.trim_start().starts_with("went without:") {
            skipped.push(line.trim().to_owned());
        }
        if let Some(passed) = line.strip_prefix("test result: ok. ") {
            tests += passed.split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
        }
        say(&line);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    if tests == 0 {
        bail!("no test was run");
    }
    say(&format!("{tests} tests passed, {} lines tell of something that was not there:", skipped.len()));
    for line in &skipped {
        say(&format!("  {line}"));
    }
    if in_ci()
        && let Some(line) = skipped.iter().find(|line| line.contains("io_uring"))
    {
        bail!("in CI the backend of this kernel must run: {line}");
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a tool, not a library; CI says who it is in this way")]
fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// The ownership tests under AddressSanitizer, and a program that must die of it, so that we know that it looks.
fn sanitizer() -> Result<()> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")) {
        say("skipped: AddressSanitizer is used on x86_64-unknown-linux-gnu only");
        return Ok(());
    }
    let sanitized = || {
        let mut command = cargo::cargo();
        // The sanitizer is an unstable flag of the compiler that works in the stable one.
        command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
        command.env("CARGO_TARGET_DIR", crate::root().join("target/asan"));
        command
    };
    let package = ["--package", "hicache-core", "--target", SANITIZED];
    counted(sanitized().arg("test").args(package).args(["--test", "ownership"]))?;
    let canary = sanitized().arg("run").args(package).args(["--example", "asan_canary"]).output()?;
    let report = String::from_utf8_lossy(&canary.stderr);
    if canary.status.success() || !report.contains("AddressSanitizer: heap-use-after-free") {
        bail!("the canary must die of a use after free, and ended with {}:\n{report}", canary.status);
    }
    say("the canary died of a use after free, as it must");
    Ok(())
}

fn docs() -> Result<()> {
    let arguments = ["doc", "--workspace", "--no-deps", "--document-private-items"];
    cargo::run(cargo::cargo().args(arguments).env("RUSTDOCFLAGS", "--deny warnings"))
}
