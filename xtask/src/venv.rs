//! Virtual environments for the stages that need Python. They lie under the target directory; nothing else is touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo;

/// Variables of the caller that would change what is tested: Python's, pytest's, SGLang's and ours.
const NOT_PASSED_ON: [&str; 4] = ["PYTHON", "PYTEST_", "SGLANG_", "HICACHE_"];
/// What tells one interpreter from another.
const WHICH: &str = "import sys; print(*sys.version_info[:3], sys.base_prefix)";

/// A virtual environment.
pub(crate) struct Venv(PathBuf);

impl Venv {
    /// The one at `directory`, made by `python` if it is not there, not whole, or of another interpreter.
    pub(crate) fn at(directory: PathBuf, python: &str) -> Result<Self> {
        let which = clean(python).args(["-c", WHICH]).output().with_context(|| python.to_owned())?.stdout;
        // Written last: one that was interrupted has none.
        let made = directory.join("made");
        if std::fs::read(&made).is_ok_and(|of| of == which) {
            return Ok(Self(directory));
        }
        let venv = Self::fresh(directory, python)?;
        std::fs::write(made, which)?;
        Ok(venv)
    }

    /// A new one at `directory`; what was there goes.
    pub(crate) fn fresh(directory: PathBuf, python: &str) -> Result<Self> {
        if let Err(error) = std::fs::remove_dir_all(&directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| directory.display().to_string());
        }
        if can(python, "import ensurepip") {
            cargo::run(clean(python).args(["-m", "venv"]).arg(&directory))?;
            return Ok(Self(directory));
        }
        // Debian's python3 without python3-venv: the pip beside it can install itself.
        cargo::run(clean(python).args(["-m", "venv", "--without-pip"]).arg(&directory))?;
        let venv = Self(directory);
        let pip = ["-m", "pip", "--disable-pip-version-check", "--python"];
        cargo::run(clean(python).args(pip).arg(venv.python()).args(["install", "--quiet", "pip"]))
            .with_context(|| format!("{python} has no ensurepip (Debian: apt install python3-venv)"))?;
        Ok(venv)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn python(&self) -> PathBuf {
        self.0.join("bin/python")
    }

    /// Its interpreter, without the caller's variables that would change what is tested.
    pub(crate) fn command(&self) -> Command {
        let mut command = clean(&self.python().to_string_lossy());
        command.current_dir(crate::root()).env("VIRTUAL_ENV", &self.0).env("PYTHONDONTWRITEBYTECODE", "1");
        // What it prints is read line by line.
        command.env("PYTHONUNBUFFERED", "1");
        command
    }

    /// A program that was installed into it.
    pub(crate) fn program(&self, name: &str) -> Command {
        clean(&self.0.join("bin").join(name).to_string_lossy())
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

/// The first interpreter of `names` that is at least 3.`least` and can make virtual environments: with `ensurepip`, or
/// with a pip of its own.
pub(crate) fn find_python(names: &[&str], least: u32) -> Result<String> {
    let recent = format!("import sys, venv; sys.exit(sys.version_info < (3, {least}))");
    let works =
        |name: &&&str| can(name, &recent) && (can(name, "import ensurepip") || can(name, "import pip"));
    match names.iter().find(works) {
        Some(name) => Ok((*name).to_owned()),
        None => bail!(
            "none of {} is a Python from 3.{least} on with venv (Debian: apt install python3-venv)",
            names.join(", ")
        ),
    }
}

fn can(python: &str, program: &str) -> bool {
    clean(python).args(["-c", program]).output().is_ok_and(|output| output.status.success())
}

/// `program` without the variables that would change it. Those of pip stay: they say where packages come from.
#[expect(
    clippy::disallowed_methods,
    reason = "a tool, not a library; the names are looked at, no value is used"
)]
fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if NOT_PASSED_ON.iter().any(|start| name.as_encoded_bytes().starts_with(start.as_bytes())) {
            command.env_remove(name);
        }
    }
    command
}
