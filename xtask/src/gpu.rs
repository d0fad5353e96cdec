//! `cargo xtask gpu`: everything that must be seen on a machine with a GPU, by one program.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{cargo, say};

/// What NVIDIA's driver makes on every machine with a GPU.
const CONTROL: &str = "/dev/nvidiactl";
/// The program's exit code where there is no GPU.
const NO_GPU: i32 = 3;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A directory of the file system to measure; temporary files are made in it.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// cuFile's library, where the system's loader does not find it.
    #[arg(long)]
    cufile: Option<PathBuf>,
    /// What must be usable there: `staged`, `cufile` or `batches`; without it the program fails.
    #[arg(long)]
    expect: Option<PathBuf>,
    /// How long all of it may take, building apart.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,
    /// Runs it a second time, short, under compute-sanitizer.
    #[arg(long)]
    sanitize: bool,
    /// Runs this program, built elsewhere from the example `gpu` of `crates/gds`, and builds nothing.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !Path::new(CONTROL).exists() {
        bail!("not run: no GPU here, {CONTROL} is missing");
    }
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => build()?,
    };
    let until = Instant::now() + Duration::from_secs(arguments.limit);
    play(arguments, &mut Command::new(&program), false, until)?;
    if !arguments.sanitize {
        return Ok(());
    }
    let mut sanitizer = Command::new("compute-sanitizer");
    if sanitizer.arg("--version").output().is_err() {
        say("went without: compute-sanitizer, which is not on PATH");
        return Ok(());
    }
    let mut sanitizer = Command::new("compute-sanitizer");
    play(arguments, sanitizer.args(["--error-exitcode", "9"]).arg(&program), true, until)
}

fn build() -> Result<PathBuf> {
    cargo::run(cargo::cargo().args(["build", "--release", "--package", "hicache-gds", "--example", "gpu"]))?;
    Ok(cargo::target()?.join("release/examples/gpu"))
}

fn play(arguments: &Arguments, command: &mut Command, short: bool, until: Instant) -> Result<()> {
    for (name, value) in [
        ("--directory", &arguments.directory),
        ("--cufile", &arguments.cufile),
        ("--expect", &arguments.expect),
    ] {
        if let Some(value) = value {
            command.arg(name).arg(value);
        }
    }
    if short {
        command.arg("--short");
    }
    let status = in_time(command, until)?;
    match status.code() {
        Some(0) => Ok(()),
        Some(NO_GPU) => bail!("not run: the program found no GPU that it can use"),
        _ => bail!("{command:?} ended with {status}"),
    }
}

/// Ends what takes too long: a driver can hang.
fn in_time(command: &mut Command, until: Instant) -> Result<ExitStatus> {
    let mut child = command.spawn().with_context(|| format!("{command:?} did not start"))?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            bail!("{command:?} was not done in time, and was ended; --limit gives it more");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_ended() {
        let begun = Instant::now();
        let late = in_time(Command::new("sleep").arg("60"), begun + Duration::from_millis(100)).unwrap_err();
        assert!(late.to_string().contains("--limit") && begun.elapsed() < Duration::from_secs(30), "{late}");
        let status = in_time(&mut Command::new("true"), begun + Duration::from_secs(60)).unwrap();
        assert!(status.success());
    }
}
