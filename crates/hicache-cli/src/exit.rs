//! How the command ends.

use std::fmt;

use hicache::ErrorKind;

use crate::workload::WorkloadError;

/// What `--help` says of exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done, and everything was right
  1    something is wrong with the data: corrupt pages, acknowledged pages that are not there, what --repair
       could not mend
  2    bad input or configuration: nothing was opened or changed
  3    the machine failed: no usable backend, an I/O error, pages that could not be moved
  130  interrupted (Ctrl-C); what was reported until then is true

Results go to standard output, everything else to standard error. A closed pipe is no error.";

/// An exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything was right.
    Good,
    /// The data are wrong.
    Wrong,
    /// The input is wrong.
    BadInput,
    /// The machine failed.
    Failed,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    /// The number that a shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Wrong => 1,
            Self::BadInput => 2,
            Self::Failed => 3,
            Self::Interrupted => 130,
        }
    }
}

/// Why a command ended before its end.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    /// The input is wrong; `message` says what would be right.
    pub(crate) fn bad_input(message: impl Into<String>) -> Self {
        Self { exit: Exit::BadInput, message: message.into() }
    }

    /// The machine failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into() }
    }

    /// As from the error itself, but with the directory that the user named to blame for whatever it is.
    pub(crate) fn unreadable(error: &hicache::Error) -> Self {
        Self::bad_input(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<hicache::Error> for Failure {
    fn from(error: hicache::Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::Config => Exit::BadInput,
            ErrorKind::Corrupt => Exit::Wrong,
            _ => Exit::Failed,
        };
        Self { exit, message: error.to_string() }
    }
}

impl From<WorkloadError> for Failure {
    fn from(error: WorkloadError) -> Self {
        Self::bad_input(error.to_string())
    }
}
