//! Why a workload can't be had.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::trace::MAX_LINE_BYTES;

/// A workload that can't be read or generated. Each message names the thing, what was found, and what would be right.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkloadError {
    /// The trace could not be opened.
    Open {
        /// The trace as the caller named it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The trace was open, and reading it failed.
    Read {
        /// The trace as the caller named it.
        path: PathBuf,
        /// The line that was being read; the first is 1.
        line: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not a request.
    Line {
        /// The trace as the caller named it.
        path: PathBuf,
        /// The broken line; the first is 1.
        line: u64,
        /// What is wrong with it.
        fault: LineFault,
    },
    /// A parameter of the synthetic workload is out of its range.
    Parameter {
        /// The field of [`SyntheticConfig`](super::SyntheticConfig).
        name: &'static str,
        /// The value given.
        value: u64,
        /// The smallest value that is right.
        least: u64,
        /// The largest value that is right.
        most: u64,
    },
}

/// What is wrong with a line of a trace.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LineFault {
    /// More bytes than [`MAX_LINE_BYTES`]; the rest of the line was not read.
    TooLong,
    /// Not a JSON object with the fields of a request.
    NotARequest {
        /// Column at which reading stopped, in bytes; the first is 1. 0 where the fault is not in one place.
        column: usize,
        /// What the JSON reader said.
        reason: String,
    },
    /// A timestamp that is negative or beyond 64 bits of milliseconds.
    Timestamp {
        /// The number as it stands in the trace.
        value: String,
    },
}

impl WorkloadError {
    /// The line at which the trace is broken; the first is 1. `None` where no line is to blame.
    pub fn line(&self) -> Option<u64> {
        match self {
            Self::Read { line, .. } | Self::Line { line, .. } => Some(*line),
            Self::Open { .. } | Self::Parameter { .. } => None,
        }
    }

    /// The trace, as the caller named it. `None` for a synthetic workload.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Open { path, .. } | Self::Read { path, .. } | Self::Line { path, .. } => Some(path),
            Self::Parameter { .. } => None,
        }
    }
}

impl fmt::Display for WorkloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, source } => {
                write!(f, "trace {}: can't be opened: {source}; give a readable JSONL file", path.display())
            }
            Self::Read { path, line, source } => {
                write!(f, "trace {}, line {line}: can't be read: {source}", path.display())
            }
            Self::Line { path, line, fault } => {
                write!(f, "trace {}, line {line}: {fault}", path.display())
            }
            Self::Parameter { name, value, least, most } => {
                write!(f, "synthetic workload: {name} is {value}; give {least} to {most}")
            }
        }
    }
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => {
                write!(f, "longer than {} MiB; a line is one request", MAX_LINE_BYTES >> 20)
            }
            Self::NotARequest { column, reason } => {
                f.write_str(reason)?;
                if *column > 0 {
                    write!(f, " (column {column})")?;
                }
                f.write_str(
                    "; a line is a JSON object with timestamp (ms), input_length, output_length (tokens) and hash_ids",
                )
            }
            Self::Timestamp { value } => {
                write!(
                    f,
                    "timestamp is {value}; give milliseconds since the start, 0 or more and within 64 bits"
                )
            }
        }
    }
}

impl std::error::Error for WorkloadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open { source, .. } | Self::Read { source, .. } => Some(source),
            Self::Line { .. } | Self::Parameter { .. } => None,
        }
    }
}
