//! `cargo xtask test`: everything that must hold, stage by stage, with what each took.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{cargo, counted, gds, nixl, python, say, sglang, tidy};

/// The only target that the sanitizer of the stable compiler is used on.
const SANITIZED: &str = "x86_64-unknown-linux-gnu";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Runs only the stages whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// How much of the tests in a real SGLang: it takes 1 GB from PyPI once, and 3.6 GB under `target/`.
    #[arg(long, value_enum, default_value_t = Amount::Part)]
    sglang: Amount,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Amount {
    /// None of them.
    None,
    /// Its cache controller, and one server that is killed.
    Part,
    /// All, a quarter of an hour.
    Whole,
}

type Stage = (&'static str, fn() -> Result<()>);

/// What some tests use, as a command that succeeds where it is there, with the package that has it.
const TOOLS: &[(&str, &str)] = &[
    ("command -v strace", "strace"),
    ("command -v mkfs.ext4", "e2fsprogs"),
    ("command -v mount", "mount"),
    ("command -v g++ && command -v readelf", "build-essential"),
    ("command -v python3", "python3"),
    ("python3 -c 'import ensurepip, venv'", "python3-venv"),
];

/// A real SGLang: a part, which is left out where none or all of it is asked for.
const SGLANG: &str = "sglang";
const WHOLE_SGLANG: &str = "all of SGLang";

const STAGES: &[Stage] = &[
    ("tools", tools),
    ("tidy", tidy::run),
    ("format", format),
    ("lints", lints),
    ("lints without default features", lints_bare),
    ("lints of the object store and of GPU memory", lints_object_store),
    ("fuzz targets", fuzz_targets),
    ("cuFile for the tests", gds::stage),
    ("NIXL's wheel", nixl::stage),
    ("tests", tests),
    ("tests on the release binary", release_tests),
    ("address sanitizer", sanitizer),
    ("docs", docs),
    ("python package", python::stage),
    (SGLANG, sglang::part),
    (WHOLE_SGLANG, sglang::whole),
];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut took: Vec<(&str, Duration)> = Vec::new();
    for (name, stage) in STAGES {
        let wanted = match &arguments.only {
            Some(only) => name.contains(only.as_str()),
            None => match *name {
                SGLANG => arguments.sglang == Amount::Part,
                WHOLE_SGLANG => arguments.sglang == Amount::Whole,
                _ => true,
            },
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
    let has = |look: &str| {
        let found = Command::new("sh").args(["-c", look]).output();
        found.is_ok_and(|output| output.status.success())
    };
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(look, _)| !has(look)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        say("everything is there");
    } else if !counted::in_ci() || !has("command -v apt-get") {
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
    let features =
        ["--features", "hicache/obj-s3,hicache/tiered,hicache-cli/obj-s3,hicache-cli/nixl,hicache-cli/gds"];
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
    counted::run(cargo::cargo().args(arguments))?;
    let features =
        ["test", "--package", "hicache", "--features", "nixl,obj-s3,tiered,gds", "--", "--show-output"];
    counted::run(cargo::cargo().args(features))?;
    let gpu =
        ["test", "--package", "hicache-cli", "--features", "gds", "--test", "gds", "--test", "device_pages"];
    counted::run(cargo::cargo().args(gpu).args(["--", "--show-output"]))
}

fn release_tests() -> Result<()> {
    // Figures count in release only, and side by side they would measure each other.
    let end = ["--", "--show-output", "--test-threads=1"];
    let millions = ["test", "--release", "--package", "hicache-page-store", "--test", "million"];
    counted::run(cargo::cargo().args(millions).args(end))?;
    counted::run(cargo::cargo().args(["test", "--release", "--package", "hicache-tests"]).args(end))
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
    counted::run(sanitized().arg("test").args(package).args(["--test", "ownership"]))?;
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
