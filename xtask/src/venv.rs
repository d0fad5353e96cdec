//! Virtual environments for the stages that need Python. They lie under the target directory; nothing else is touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo;

/// A virtual environment.
pub(crate) struct Venv(PathBuf);

impl Venv {
    /// The one at `directory`, made by `python` if it is not there.
    pub(crate) fn at(directory: PathBuf, python: &str) -> Result<Self> {
        let venv = Self(directory);
        if !venv.python().exists() {
            cargo::run(Command::new(python).args(["-m", "venv"]).arg(&venv.0)).with_context(|| {
                format!("{python} can't make a virtual environment (Debian: apt install python3-venv)")
            })?;
        }
        Ok(venv)
    }

    /// A new one at `directory`; what was there goes.
    pub(crate) fn fresh(directory: PathBuf, python: &str) -> Result<Self> {
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Self::at(directory, python),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn python(&self) -> PathBuf {
        self.0.join("bin/python")
    }

    /// Its interpreter, with its programs first on the path, and no variables of ours.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.python());
        command.current_dir(crate::root()).env("VIRTUAL_ENV", &self.0).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// `pip install` with these arguments.
    pub(crate) fn install(&self, arguments: &[&str]) -> Result<()> {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        cargo::run(self.command().args(pip).args(arguments))
    }

    /// Installs once: a file remembers what `stamp` was.
    pub(crate) fn once(
        &self,
        name: &str,
        stamp: &str,
        install: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let file = self.0.join(format!("installed-{name}"));
        if std::fs::read_to_string(&file).is_ok_and(|text| text == stamp) {
            return Ok(());
        }
        install(self)?;
        Ok(std::fs::write(file, stamp)?)
    }
}

/// The first interpreter of `names` that is there, can make virtual environments, and is at least 3.`least`.
pub(crate) fn find_python(names: &[&str], least: u32) -> Result<String> {
    let check = format!("import sys, venv, ensurepip; sys.exit(sys.version_info < (3, {least}))");
    for name in names {
        let works = Command::new(name).args(["-c", &check]).output();
        if works.is_ok_and(|output| output.status.success()) {
            return Ok((*name).to_owned());
        }
    }
    bail!("none of {} is a Python from 3.{least} on with venv", names.join(", "))
}
