//! `cargo xtask python`: builds the wheel, installs it into a fresh environment, and tests it there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::object_store::server::{self, Server};
use crate::venv::{Venv, find_python};
use crate::{cargo, counted, nixl, say};

/// What builds the wheel.
const MATURIN: &str = "maturin==1.16.0";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Builds the wheel and does not test it.
    #[arg(long)]
    build_only: bool,
    /// The interpreter that the wheel is tested with; from 3.9 on.
    #[arg(long, default_value = "python3")]
    python: String,
    /// Arguments for pytest.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pytest: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let wheel = build(&arguments.python)?;
    if arguments.build_only {
        return Ok(());
    }
    let tests = tested(&wheel, &arguments.python)?;
    let folder = crate::root().join("crates/hicache-py/tests");
    let mut pytest = tests.command();
    pytest.args(["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]).arg(folder);
    if let Some(packages) = nixl::installed() {
        pytest.arg("--nixl").arg(packages);
    }
    let directory = tempfile::tempdir()?;
    // It runs as long as the tests do.
    let server = server::install()?.map(|program| Server::start(&program, directory.path())).transpose()?;
    if let Some(server) = &server {
        pytest.args(["--object-store", &server.endpoint(), "--credentials"]).arg(server.credentials());
    }
    counted::run(pytest.args(&arguments.pytest))
}

/// The stage of the gate.
pub(crate) fn stage() -> Result<()> {
    match find_python(&["python3"], 9) {
        Ok(python) => run(&Arguments { build_only: false, python, pytest: Vec::new() }),
        Err(error) if counted::in_ci() => Err(error),
        Err(error) => {
            say(&format!("went without: the Python package, since {error}"));
            Ok(())
        }
    }
}

/// A fresh environment with the wheel and what its tests need.
fn tested(wheel: &Path, python: &str) -> Result<Venv> {
    let venv = Venv::fresh(cargo::target()?.join("python/tests"), python)?;
    let requirements = crate::root().join("crates/hicache-py/tests/requirements.txt");
    venv.install(&["-r", &requirements.to_string_lossy()])?;
    venv.install(&["--no-deps", "--no-index", &wheel.to_string_lossy()])?;
    Ok(venv)
}

/// Builds the wheel in release and answers where it is.
pub(crate) fn build(python: &str) -> Result<PathBuf> {
    let target = cargo::target()?;
    let tools = Venv::at(target.join("python/tools"), python)?;
    tools.once("tools", MATURIN, |venv| venv.install(&[MATURIN]))?;
    let wheels = target.join("wheels");
    // One wheel lies there, the one of this build.
    let _ = std::fs::remove_dir_all(&wheels);
    let mut maturin = tools.program("maturin");
    maturin.current_dir(crate::root()).args([
        "build",
        "--release",
        "--strip",
        "--manifest-path",
        "crates/hicache-py/Cargo.toml",
    ]);
    maturin.arg("--out").arg(&wheels).arg("--interpreter").arg(tools.path().join("bin/python"));
    cargo::run(maturin.env("CARGO_TARGET_DIR", &target))?;
    let mut found = std::fs::read_dir(&wheels)?.filter_map(|entry| Some(entry.ok()?.path()));
    let wheel = found
        .find(|path| path.extension().is_some_and(|end| end == "whl"))
        .context("maturin made no wheel")?;
    let name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    ensure!(name.contains("-cp39-abi3-"), "{name} is not for every Python from 3.9 on");
    if cfg!(target_env = "gnu") && !name.contains("-manylinux_") {
        bail!("{name} has no manylinux tag, so pip would refuse it elsewhere");
    }
    say(&format!("built {}", wheel.display()));
    Ok(wheel)
}
