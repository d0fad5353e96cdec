//! How fast the store is, beside the machine's own limit and beside what somebody would use instead: `cargo xtask bench`.
//!
//! Every competitor is a process of its own with a pool of its own. They take turns, round by round, so that what the machine
//! does to one it does to the others; what counts is the median of the ratios.
//!
//! | module | what is there |
//! |---|---|
//! | `cases` | what is measured, against what, and the bar |
//! | `spec` | what a competitor is told |
//! | `competitors` | the store, a raw ring, files |
//! | `child` | the process of a competitor |
//! | `rounds` | the turns that they take |
//! | `measure` | seconds, CPU, allocations |
//! | `syscalls` | system calls, by strace |
//! | `report` | the table, JSON, HTML |

mod allocations;
mod cases;
mod child;
mod competitors;
mod machine;
mod measure;
mod report;
mod rounds;
mod spec;
mod syscalls;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use allocations::Counting;

/// Anything that goes wrong here ends the program with a line.
type Problem = Box<dyn std::error::Error>;

#[derive(Parser)]
#[command(
    name = "hicache-bench",
    about = "The store beside the machine's limit, and beside what is used instead"
)]
struct Command {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Task {
    /// One competitor, which is told what to do on its standard input.
    #[command(hide = true)]
    Child {
        /// What it is, as JSON.
        spec: String,
        /// So many rounds, and nothing is read.
        #[arg(long)]
        rounds: Option<usize>,
    },
}

/// What is measured, and where.
#[derive(Args, Debug)]
struct Run {
    /// Only cases whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Only those competitors whose name contains this; ours plays always.
    #[arg(long)]
    beside: Option<String>,
    /// Interleaved rounds a case.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Where the pools are made; on the disk that is to be measured.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Where `bench.json` and `bench.html` go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Small pools and no system calls counted: to see that everything works.
    #[arg(long)]
    small: bool,
    /// The cases by name, and nothing else.
    #[arg(long)]
    list: bool,
    /// Ends with a failure if a bar is not met.
    #[arg(long)]
    strict: bool,
}

/// The program.
pub fn run() -> ExitCode {
    let command = Command::parse();
    let done = match command.task {
        Some(Task::Child { spec, rounds }) => child::run(&spec, rounds).map(|()| true),
        None => run_cases(&command.run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            crate::say(&format!("error: {problem}"));
            ExitCode::FAILURE
        }
    }
}

fn run_cases(run: &Run) -> Result<bool, Problem> {
    let wanted = |name: &str| run.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let cases = if run.small { cases::small() } else { cases::all() };
    let mut cases: Vec<_> = cases.into_iter().filter(|case| wanted(&case.name)).collect();
    for case in &mut cases {
        case.keep_beside(run.beside.as_deref().unwrap_or_default());
    }
    if cases.is_empty() {
        return Err(format!("no case has {:?} in its name; --list shows them", run.only).into());
    }
    if run.list {
        cases.iter().for_each(|case| crate::say(&case.name));
        return Ok(true);
    }
    let ground = match &run.directory {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    }?;
    let machine = machine::Machine::look(ground.path())?;
    crate::say(&machine.to_string());
    let mut results = Vec::new();
    for case in cases {
        let result = rounds::play(case, run.rounds, !run.small, ground.path())?;
        crate::say(&report::line(&result));
        results.push(result);
    }
    let report = report::Report { machine, results };
    crate::say(&report.table());
    if let Some(costs) = report.costs() {
        crate::say(&costs);
    }
    for path in report.write(&run.out)? {
        crate::say(&format!("written: {}", path.display()));
    }
    Ok(!run.strict || report.results.iter().all(|result| result.is_met() != Some(false)))
}
