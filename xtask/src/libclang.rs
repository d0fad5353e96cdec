//! libclang, with which the crate `nixl-sys` makes its bindings: a wheel's, installed under `target/`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::root;
use crate::venv::{Venv, find_python};

const VERSION: &str = "18.1.1";
/// Of the wheel for x86-64.
const SHA256: &str = "c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b";

/// What a build of `nixl-sys` needs beside a compiler for C++.
pub(crate) struct Libclang {
    folder: PathBuf,
    headers: PathBuf,
}

impl Libclang {
    /// Finds it, or installs it.
    pub(crate) fn find() -> Result<Self> {
        Self::install().context("libclang, which a build of nixl-sys needs, can't be had")
    }

    fn install() -> Result<Self> {
        // The wheel has the library alone; the compiler's own headers do for it.
        let output = Command::new("g++").arg("-print-file-name=include").output().context("no g++")?;
        let headers = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        anyhow::ensure!(headers.is_dir(), "g++ does not say where its headers are");
        let venv = Venv::at(root().join("target/libclang"), &find_python(&["python3"], 9)?)?;
        venv.once("libclang", VERSION, |venv| {
            let requirements = venv.path().join("requirements.txt");
            std::fs::write(&requirements, format!("libclang=={VERSION} --hash=sha256:{SHA256}\n"))?;
            let requirements = requirements.to_string_lossy();
            venv.install(&["--no-deps", "--require-hashes", "-r", requirements.as_ref()])
        })?;
        let print = "import clang, pathlib; print(pathlib.Path(clang.__path__[0]) / 'native')";
        let output = venv.command().args(["-c", print]).output()?;
        let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        anyhow::ensure!(folder.join("libclang.so").is_file(), "the wheel of libclang has no library");
        Ok(Self { folder, headers })
    }

    /// Lets `command` find it.
    pub(crate) fn give(&self, command: &mut Command) {
        command.env("LIBCLANG_PATH", &self.folder);
        command.env("BINDGEN_EXTRA_CLANG_ARGS", format!("-I{}", self.headers.display()));
    }
}
