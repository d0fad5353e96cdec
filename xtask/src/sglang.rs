//! `cargo xtask sglang`: the wheel in a real SGLang, without a GPU.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::venv::{Venv, find_python};
use crate::{cargo, counted, python, say};

/// Interpreters, the one that the pinned SGLang has been run with first; the pinned versions are for 3.11 and later.
const PYTHONS: [&str; 3] = ["python3.11", "python3.12", "python3"];
const LEAST: u32 = 11;
/// What its native parts are built with at first use.
const COMPILERS: [&str; 3] = ["gcc", "g++", "readelf"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Installs SGLang and stops.
    #[arg(long)]
    install_only: bool,
    /// Arguments for pytest, such as `-k server` or `--long`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pytest: Vec<String>,
}

impl Arguments {
    /// Only arguments for pytest.
    pub(crate) fn pytest(pytest: Vec<String>) -> Self {
        Self { install_only: false, pytest }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.install_only {
        return install(&folder()).map(drop);
    }
    let mut tests = ready()?;
    // A line a test: this takes long.
    tests.args(["-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider", "--durations=10"]).arg(folder());
    let models = cargo::target()?.join("sglang/models");
    counted::run(tests.arg("--models").arg(models).args(&arguments.pytest))
}

/// The bench beside SGLang's own backends.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    cargo::run(ready()?.arg(folder().join("bench.py")).args(arguments))
}

/// The harness.
fn folder() -> PathBuf {
    crate::root().join("tests/sglang")
}

/// A Python with SGLang, the wheel and the stand-ins.
fn ready() -> Result<Command> {
    let folder = folder();
    let venv = install(&folder)?;
    let wheel = python::build(&find_python(&["python3"], 9)?)?;
    venv.install(&["--no-deps", "--no-index", "--force-reinstall", &wheel.to_string_lossy()])?;
    let mut command = venv.command();
    // The stand-ins are imported by whatever Python sees this; the programs of the environment build native parts.
    command.env("PYTHONPATH", format!("{0}/shim:{0}", folder.display()));
    command.env("PATH", format!("{}:{}", venv.path().join("bin").display(), cargo::search_path()));
    Ok(command)
}

/// What the gate runs of it: pages through the real cache controller in each layout, torch's tensors, a server that is
/// killed, and the backend that corrupts, by which the test of that is tested.
const PART: &str = "controller or torch or flush_kill or sees_corruption";

/// The stage of the gate that takes minutes.
pub(crate) fn part() -> Result<()> {
    stage(&["-k", PART])
}

/// The stage of the gate with all of it.
pub(crate) fn whole() -> Result<()> {
    stage(&[])
}

fn stage(pytest: &[&str]) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        say("went without: a real SGLang, since the stubs of CUDA's libraries are made for x86_64 only");
        return Ok(());
    }
    if let Err(reason) = possible() {
        if counted::in_ci() {
            return Err(reason.context("a real SGLang can't be run"));
        }
        say(&format!("went without: a real SGLang, since {reason:#}"));
        return Ok(());
    }
    run(&Arguments::pytest(pytest.iter().map(|argument| (*argument).to_owned()).collect()))
}

/// What the machine must have; pip brings the rest.
fn possible() -> Result<()> {
    find_python(&PYTHONS, LEAST)?;
    for compiler in COMPILERS {
        let there = Command::new(compiler).arg("--version").output();
        there.with_context(|| format!("{compiler} is not there (Debian: apt install build-essential)"))?;
    }
    Ok(())
}

/// An unmodified SGLang, installed once; about 1 GB is downloaded and 3.6 GB are taken.
fn install(folder: &Path) -> Result<Venv> {
    let python = find_python(&PYTHONS, LEAST)?;
    let venv = Venv::at(cargo::target()?.join("sglang/venv"), &python)?;
    let requirements = folder.join("requirements.txt");
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
    let stamp = [read(&requirements)?, read(&folder.join("stubs.py"))?].concat();
    venv.once("sglang", &stamp, |venv| {
        say("installing SGLang: about 1 GB is downloaded, 3.6 GB are taken; minutes");
        // Without what they ask for: all of it is in the list, but CUDA's libraries, for which there are stubs.
        venv.install(&["--no-deps", "-r", &requirements.to_string_lossy()])?;
        let find =
            "import importlib.util as u, os; print(os.path.dirname(u.find_spec('torch').origin) + '/lib')";
        let output = venv.command().args(["-c", find]).output()?;
        let libraries = String::from_utf8(output.stdout)?;
        cargo::run(venv.command().arg(folder.join("stubs.py")).arg(libraries.trim()))
    })?;
    Ok(venv)
}
