//! The commands, one a file.

pub(crate) mod explain;
#[cfg(feature = "gds")]
pub(crate) mod gds;
pub(crate) mod list;
pub(crate) mod probe;
pub(crate) mod replay;
mod replay_tiers;
pub(crate) mod stat;
pub(crate) mod verify;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command, ConfigCommand};
use crate::exit::{Exit, Failure};
use crate::logging;
use crate::output::Output;

/// As [`run_to_code`], for a `main`.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(run_to_code(arguments))
}

/// Does what `arguments` say, the first of which is the name of the program. Results go to standard output, everything
/// else to standard error; neither being gone makes it panic.
///
/// The exit code is 0 where all was right, 1 for wrong data, 2 for bad input, 3 where the machine failed, 130 after
/// Ctrl-C.
pub fn run_to_code(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version, or a complaint. Where it can't be written there is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { Exit::BadInput } else { Exit::Good }.code();
        }
    };
    logging::start(arguments.log.level());
    let mut output = Output::lock();
    let result = dispatch(&arguments.command, &mut output).and_then(|exit| {
        output.flush()?;
        Ok(exit)
    });
    match result {
        Ok(exit) => exit.code(),
        Err(failure) => {
            let _ = writeln!(io::stderr(), "hicache: {failure}");
            failure.exit.code()
        }
    }
}

fn dispatch(command: &Command, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        Command::Probe(arguments) => probe::run(arguments, output),
        Command::Config(ConfigCommand::Explain(arguments)) => explain::run(arguments, output),
        Command::Replay(arguments) => replay::run(arguments, output),
        Command::Verify(arguments) => verify::run(arguments, output),
        Command::Stat(arguments) => stat::run(arguments, output),
        Command::List(arguments) => list::run(arguments, output),
        #[cfg(feature = "gds")]
        Command::ProbeGds(arguments) => gds::run(arguments, output),
    }
}

/// A runtime of this thread and `helpers` others.
fn runtime(helpers: usize) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = match helpers {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if helpers > 0 {
        builder.worker_threads(helpers);
    }
    builder.enable_all().build().map_err(|error| Failure::failed(format!("no runtime: {error}")))
}
