//! What must be seen on a machine with a GPU, by one program: which way bytes go there, the conformance suite on memory of the
//! device, copies of every layout against a CPU reference, and a table of rates. `cargo xtask gpu` builds and runs it.
//!
//! Without a GPU it says why, and ends with code 3.

#![allow(clippy::print_stdout, reason = "it prints a report")]

mod conformance;
mod copies;
mod memory;
#[path = "../../tests/mirror/mod.rs"]
mod mirror;
mod pages;
mod rates;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hicache_core::Result;
use hicache_gds::cuda::copies::Copying;
use hicache_gds::probe::{Helper, Limits, Question, State, answer, ask};
use hicache_gds::{Context, Cuda};

/// How long what was dropped may take to let go of the device.
const LONGEST_END: Duration = Duration::from_secs(20);
/// The word by which the program calls itself to probe.
const PROBE: &str = "probe";

/// What the program is told.
pub(crate) struct Told {
    /// Where files are made.
    pub(crate) directory: PathBuf,
    /// cuFile's library.
    pub(crate) cufile: Option<PathBuf>,
    /// What must be usable here: without it the program fails.
    pub(crate) expect: Option<Expected>,
    /// Whether to leave out what takes long: under compute-sanitizer.
    pub(crate) short: bool,
}

/// What can be run, each with what is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Expected {
    Staged,
    Cufile,
    Batches,
}

impl Expected {
    const ALL: [(&str, Self); 3] =
        [("staged", Self::Staged), ("cufile", Self::Cufile), ("batches", Self::Batches)];
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = arguments.as_slice()
        && first == PROBE
    {
        return if answer(rest, &mut std::io::stdout().lock()).is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(2)
        };
    }
    let told = match read(&arguments) {
        Ok(told) => told,
        Err(wrong) => {
            println!(
                "gpu: {wrong}; usage: gpu [--directory DIR] [--cufile FILE] [--expect staged|cufile|batches] [--short]"
            );
            return ExitCode::from(2);
        }
    };
    let context = match Cuda::load().and_then(|cuda| cuda.context(0)) {
        Ok(context) => context,
        Err(error) => {
            println!("not run: {error}");
            return ExitCode::from(3);
        }
    };
    let outcome = run(&context, &told);
    // The driver goes as the process ends: nobody may be using it then.
    let ended = context.end(LONGEST_END);
    for error in [outcome.as_ref().err(), ended.as_ref().err()].into_iter().flatten() {
        println!("failed: {error}");
    }
    if matches!((outcome, ended), (Ok(true), Ok(()))) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read(arguments: &[String]) -> Result<Told, String> {
    let mut told = Told { directory: std::env::temp_dir(), cufile: None, expect: None, short: false };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().map(PathBuf::from).ok_or_else(|| format!("{word} lacks its value"));
        match word.as_str() {
            "--directory" => told.directory = value()?,
            "--cufile" => told.cufile = Some(value()?),
            "--expect" => {
                let name = value()?;
                let known = Expected::ALL.iter().find(|(known, _)| name.as_os_str() == *known);
                told.expect = Some(known.ok_or_else(|| format!("{name:?} can't be expected"))?.1);
            }
            "--short" => told.short = true,
            other => return Err(format!("{other:?} is not known")),
        }
    }
    Ok(told)
}

/// Whether everything that was tried held.
fn run(context: &Arc<Context>, told: &Told) -> Result<bool> {
    let version = context.cuda().version();
    println!("device 0 of {}: {}", context.cuda().devices()?, context.name());
    println!("driver for CUDA {}.{}", version / 1000, version % 1000 / 10);
    println!("copies in batches: {}", if Copying::of(context).batches() { "yes" } else { "no" });
    let program = std::env::current_exe().map_err(|error| hicache_core::Error::config(error.to_string()))?;
    let helper = Helper { program: program.into(), arguments: vec![PROBE.into()] };
    let question = Question { device: 0, library: told.cufile.as_deref(), directory: &told.directory };
    let asked = ask(&helper, question, Limits::default())?;
    for step in &asked.steps {
        println!("  {} {}: {}", if step.passed { "yes" } else { "no " }, step.name, step.detail);
    }
    println!("{}", asked.state);
    let cufile = !matches!(asked.state, State::Unavailable(_));
    let batches = cufile && asked.steps.iter().any(|step| step.name == "cuFile's batches" && step.passed);
    let seen = match (cufile, batches) {
        (_, true) => Expected::Batches,
        (true, _) => Expected::Cufile,
        _ => Expected::Staged,
    };
    let mut good = conformance::run(context, told, cufile, batches)?;
    good &= memory::run(context, told, cufile)?;
    good &= copies::run(context)?;
    good &= rates::run(context, told, cufile, batches)?;
    if told.expect.is_some_and(|expected| expected > seen) {
        println!("{:?} was expected here, and only {seen:?} could be run", told.expect);
        good = false;
    }
    println!("{}", if good { "all held" } else { "something did not hold" });
    Ok(good)
}
