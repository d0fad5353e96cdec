//! `cargo xtask nixl`: NIXL's wheel under `target/`, and the tests on it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::venv::{Venv, find_python};
use crate::{cargo, counted, object_store, root, say};

const PACKAGE: &str = "nixl-cu12==1.5.1";
/// Of the wheel for x86-64 and CPython 3.11. Only the library in it is used, so it need not be the Python that is here.
const SHA256: &str = "341d0dfa499f941c054614252f1d8047d1380e33f29c87707372ff5ec7d3779a";
const OF_PYTHON: &str = "3.11";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Installs the wheel and the object store, and stops.
    #[arg(long)]
    install_only: bool,
    /// Arguments for the tests, such as the name of one.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    tests: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    install()?;
    if arguments.install_only {
        return Ok(());
    }
    let test = ["test", "--package", "hicache-nixl-backend", "--", "--show-output"];
    counted::run(cargo::cargo().args(test).args(&arguments.tests))?;
    let facade =
        ["test", "--package", "hicache", "--features", "nixl", "--test", "nixl*", "--", "--show-output"];
    counted::run(cargo::cargo().args(facade))
}

/// The stage of the gate, before the tests, which find what is installed here.
pub(crate) fn stage() -> Result<()> {
    match install() {
        Ok(()) => Ok(()),
        Err(error) if counted::in_ci() => Err(error.context("in CI the tests on NIXL must run")),
        Err(error) => {
            say(&format!("went without: NIXL, since {error:#}"));
            Ok(())
        }
    }
}

/// Where the tests look for the wheel: a folder of packages.
fn packages() -> PathBuf {
    root().join("target/nixl-1.5.1")
}

/// The same, where it is there.
pub(crate) fn installed() -> Option<PathBuf> {
    Some(packages()).filter(|packages| packages.is_dir())
}

/// The wheel and the object store, installed if they are not.
fn install() -> Result<()> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        bail!("its wheel is pinned for x86-64 Linux");
    }
    let packages = packages();
    // A link, or a folder that was made whole: it gets its name last.
    if !packages.is_dir() {
        let venv = Venv::at(root().join("target/nixl-pip"), &find_python(&["python3"], 9)?)?;
        let requirements = venv.path().join("requirements.txt");
        std::fs::write(&requirements, format!("{PACKAGE} --hash=sha256:{SHA256}\n"))?;
        let (partial, requirements) = (venv.path().join("packages"), requirements.display().to_string());
        let target = partial.display().to_string();
        let pinned = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version", OF_PYTHON];
        venv.install(&[&pinned[..], &["--upgrade", "--target", &target, "-r", &requirements]].concat())
            .context("its wheel could not be installed")?;
        std::fs::rename(&partial, &packages).with_context(|| packages.display().to_string())?;
        say(&format!("NIXL's wheel is in {}", packages.display()));
    }
    if object_store::server::install()?.is_none() {
        bail!("SeaweedFS, which its object plugin is tested on, could not be installed");
    }
    Ok(())
}
