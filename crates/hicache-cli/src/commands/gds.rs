//! The process in which GPU memory is tried.

use std::io::{self, Write};

use clap::Args;
use hicache::gds::probe::answer;

use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Arguments of the process.
#[derive(Debug, Args)]
pub(crate) struct ProbeGdsArguments {
    /// What is asked: `any-way` or `directly`
    question: String,
    /// Number of the device
    device: String,
    /// cuFile's library, or `-`
    library: String,
    /// Where a file may be made
    directory: String,
}

/// Runs in the process.
pub(crate) fn run(arguments: &ProbeGdsArguments, output: &mut Output) -> Result<Exit, Failure> {
    let words =
        [&arguments.question, &arguments.device, &arguments.library, &arguments.directory].map(String::clone);
    let mut lines = Lines { output, line: Vec::new() };
    answer(&words, &mut lines).map_err(|error| Failure::failed(error.to_string()))?;
    Ok(Exit::Good)
}

/// Hands each line on as soon as it is whole, so that whoever reads knows where it ended.
struct Lines<'a> {
    output: &'a mut Output,
    line: Vec<u8>,
}

impl Write for Lines<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let failed = |failure: Failure| io::Error::other(failure.to_string());
        self.output.line(text.trim_end()).map_err(failed)?;
        self.output.flush().map_err(failed)
    }
}
