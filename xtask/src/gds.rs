//! `cargo xtask gds`: what the tests of cuFile and CUDA stand on, and what can't be checked without it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{cargo, counted, root, say, venv};

/// cuFile as NVIDIA packs it for pip: package and version. The oldest that there is, those whose answers differ, the newest.
const CUFILE: &[(&str, &str)] = &[
    ("nvidia-cufile-cu12", "1.11.1.6"),
    ("nvidia-cufile-cu12", "1.13.1.3"),
    ("nvidia-cufile-cu12", "1.14.1.1"),
    ("nvidia-cufile", "1.15.1.6"),
    ("nvidia-cufile", "1.17.1.22"),
    ("nvidia-cufile", "1.19.1.55"),
    ("nvidia-cufile", "1.20.0.107"),
];

/// NVIDIA's compiler library; it needs no GPU.
const NVRTC: &str = "nvidia-cuda-nvrtc-cu12==12.1.105";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Puts cuFile's libraries and headers of several versions under `target/gds`, with pip.
    Install,
    /// Installs, and runs the tests of `crates/gds`.
    Test,
    /// Builds the kernels with NVIDIA's compiler library from pip, and compares the result with what is checked in.
    Ptx {
        /// Replaces what is checked in.
        #[arg(long)]
        write: bool,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match arguments.what {
        What::Install => install(),
        What::Ptx { write } => ptx(write),
        What::Test => {
            install()?;
            counted::run(cargo::cargo().args(["test", "--package", "hicache-gds", "--", "--show-output"]))
        }
    }
}

/// The gate's: what the tests of `crates/gds` look at. They say so where it is not there.
pub(crate) fn stage() -> Result<()> {
    match install() {
        Err(error) if !counted::in_ci() => {
            say(&format!("went without: cuFile's libraries and headers: {error:#}"));
            Ok(())
        }
        installed => installed,
    }
}

/// Builds the kernels again. The compiler is an old one, so that older drivers can load the result.
fn ptx(write: bool) -> Result<()> {
    let python = venv::find_python(&["python3"], 9)?;
    let environment = venv::Venv::at(root().join("target/gds-venv"), &python)?;
    environment.once("nvrtc", NVRTC, |environment| environment.install(&["--no-deps", NVRTC]))?;
    let library =
        find(environment.path(), "libnvrtc.so.12")?.with_context(|| format!("{NVRTC} has no library"))?;
    let kernels = root().join("crates/gds/kernels");
    let (checked_in, built) = (kernels.join("pages.ptx"), root().join("target/gds-pages.ptx"));
    let mut compile = environment.command();
    compile.arg(kernels.join("build.py")).arg(library).arg(kernels.join("pages.cu")).arg(&built);
    cargo::run(&mut compile)?;
    if write {
        fs::copy(&built, &checked_in)?;
    } else if fs::read(&built)? != fs::read(&checked_in)? {
        bail!(
            "{} is not what {NVRTC} makes of pages.cu; `cargo xtask gds ptx --write`",
            checked_in.display()
        );
    }
    say(&format!("{} is what {NVRTC} makes of pages.cu", checked_in.display()));
    Ok(())
}

/// Where the versions are, a folder each.
fn place() -> PathBuf {
    root().join("target/gds")
}

fn install() -> Result<()> {
    let python = venv::find_python(&["python3"], 9)?;
    let environment = venv::Venv::at(root().join("target/gds-venv"), &python)?;
    for (package, version) in CUFILE {
        let to = place().join(format!("cufile-{version}"));
        // Written last: one that was interrupted has none.
        let done = to.join("installed");
        if done.is_file() {
            continue;
        }
        let unpacked = to.join("wheel");
        let target = unpacked.to_str().context("a folder whose name is no text")?;
        let which = format!("{package}=={version}");
        environment.install(&["--no-deps", "--upgrade", "--target", target, &which])?;
        for (file, folder) in [("cufile.h", "include"), ("libcufile.so.0", "lib")] {
            let found = find(&unpacked, file)?.with_context(|| format!("{which} has no {file}"))?;
            let folder = to.join(folder);
            if folder.is_dir() {
                fs::remove_dir_all(&folder)?;
            }
            // With what lies beside it: cuFile loads its other libraries from there.
            fs::rename(found.parent().context("a file without a folder")?, folder)?;
        }
        fs::remove_dir_all(&unpacked)?;
        fs::write(done, which)?;
        say(&format!("cuFile {version} is under {}", to.display()));
    }
    Ok(())
}

fn find(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|own| own == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
