//! Starts the process, reads its lines, ends it when its time is over.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Result};

use super::child::{ANY_WAY, DEVICE_STEP, DIRECT_BYTES, DIRECTLY, NO_PATH};
use super::lines::{Line, State, Step};
use crate::GDS;

/// A longer line is not one of ours; the rest of it is passed over.
const LONGEST_LINE: usize = 64 << 10;
/// Lines that wait to be looked at; who prints more waits.
const MOST_WAITING: usize = 64;

/// How long the process may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In all, both processes together. The first context of a machine with many GPUs takes seconds.
    pub whole: Duration,
    /// Once it is known that there is no device: what cuFile says then adds to the reason, and is not worth waiting for.
    pub without_device: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { whole: Duration::from_secs(10), without_device: Duration::from_millis(1200) }
    }
}

/// A program that calls [`super::answer`] with the arguments that it gets after these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helper {
    /// The program.
    pub program: OsString,
    /// Its first arguments.
    pub arguments: Vec<OsString>,
}

/// What the process said, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which way bytes go.
    pub state: State,
    /// Whether pages of a device can go through staging memory, or why not.
    pub staged: Result<(), String>,
    /// What was tried, in order.
    pub steps: Vec<Step>,
}

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Number of the device, as this process counts.
    pub device: u32,
    /// cuFile's library, or the one that the system's loader finds.
    pub library: Option<&'a Path>,
    /// Where a file may be made: which way bytes go depends on the file system.
    pub directory: &'a Path,
}

/// Asks, within `limits`.
///
/// Where the driver knows a way past host memory, a second process is asked whether bytes move while compatibility mode is
/// forbidden: without that, nobody knows which way they went, and it is compatibility mode.
///
/// # Errors
/// `Unavailable` if a process can't be started. What it finds, and that it hangs or crashes, is in the answer.
pub fn ask(helper: &Helper, question: Question<'_>, limits: Limits) -> Result<Asked> {
    let begun = Instant::now();
    let mut asked = one(helper, question, ANY_WAY, begun, limits)?;
    if matches!(asked.state, State::NvFs | State::P2pDma) {
        let proof = one(helper, question, DIRECTLY, begun, limits)?;
        let is_told = proof.steps.iter().any(|step| step.name == DIRECT_BYTES);
        asked.steps.extend(proof.steps.into_iter().filter(|step| step.name != DEVICE_STEP));
        asked.state = match proof.state {
            State::NvFs | State::P2pDma => proof.state,
            State::Compat => State::Compat,
            State::Unavailable(detail) => {
                if !is_told {
                    asked.steps.push(Step { name: DIRECT_BYTES.to_owned(), passed: false, detail });
                }
                State::Compat
            }
        };
    }
    Ok(asked)
}

/// Starts one process, and reads what it says.
fn one(helper: &Helper, question: Question<'_>, what: &str, begun: Instant, limits: Limits) -> Result<Asked> {
    let failed = |what: &str, source: std::io::Error| {
        Error::new(ErrorKind::Unavailable, what.to_owned()).with_backend(GDS).with_source(source)
    };
    // cuFile writes a log where it is started.
    let place = tempfile::tempdir().map_err(|error| failed("no directory for the probe's process", error))?;
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let library = question.library.map_or_else(
        || OsString::from(NO_PATH),
        // A name without a folder is the loader's to find.
        |path| if path.components().count() > 1 { absolute(path).into() } else { path.into() },
    );
    let mut command = Command::new(&helper.program);
    command
        .args(&helper.arguments)
        .args([what, &question.device.to_string()])
        .arg(library)
        .arg(absolute(question.directory))
        .current_dir(place.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if what == DIRECTLY {
        // For libraries that can't be told in another way.
        command.env("CUFILE_ALLOW_COMPAT_MODE", "false");
    }
    let child = command
        .spawn()
        .map_err(|error| failed(&format!("the helper {:?} can't be started", helper.program), error))?;
    Ok(Reading { child, steps: Vec::new(), staged: None, begun: None, way: None }.read_all(begun, limits))
}

struct Reading {
    child: Child,
    steps: Vec<Step>,
    staged: Option<Result<(), String>>,
    begun: Option<String>,
    /// What stands, whatever comes of the steps after it.
    way: Option<State>,
}

impl Reading {
    fn read_all(mut self, begun: Instant, limits: Limits) -> Asked {
        let (sender, lines) = sync_channel(MOST_WAITING);
        let output = self.child.stdout.take();
        // Ends with the process, which is ended below.
        std::thread::spawn(move || {
            let mut output = output.map(BufReader::new);
            while let Some(line) = output.as_mut().and_then(next_line) {
                // What a library prints may be in any encoding.
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        let state = loop {
            let limit = if self.has_no_device() { limits.without_device } else { limits.whole };
            match lines.recv_timeout((begun + limit).saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(state) = self.take(&line) {
                        break state;
                    }
                }
                Err(RecvTimeoutError::Timeout) => break self.broken(&format!("no answer within {limit:?}")),
                Err(RecvTimeoutError::Disconnected) => {
                    // A process without output may live on.
                    break match self.ended_by(begun + limit) {
                        Some(status) => self.broken(&format!("the probe's process ended with {status}")),
                        None => self.broken(&format!("no answer within {limit:?}, and no output any more")),
                    };
                }
            }
        };
        // It has said all that it has to say, or too little.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let staged = self.staged.take().unwrap_or_else(|| Err(state.to_string()));
        Asked { state, staged, steps: std::mem::take(&mut self.steps) }
    }

    fn ended_by(&mut self, until: Instant) -> Option<String> {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status.to_string()),
                Err(error) => return Some(error.to_string()),
                Ok(None) if Instant::now() >= until => return None,
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn take(&mut self, line: &str) -> Option<State> {
        // What a library prints is not for us.
        match serde_json::from_str(line).ok()? {
            Line::Begins(name) => self.begun = Some(name),
            Line::Seen(step) => {
                self.begun = None;
                self.steps.push(step);
            }
            Line::Staged(staged) => self.staged = Some(staged),
            Line::Way(state) => self.way = Some(state),
            Line::Ends(state) => return Some(state),
        }
        None
    }

    fn has_no_device(&self) -> bool {
        self.steps.iter().any(|step| step.name == DEVICE_STEP && !step.passed)
    }

    fn broken(&mut self, how: &str) -> State {
        let during = self.begun.take();
        let reason = match &during {
            Some(name) => format!("{how}, in the step {name:?}"),
            None => how.to_owned(),
        };
        // Why CUDA can't be used comes before whatever cuFile does about that.
        let cause = self
            .steps
            .iter()
            .find(|step| step.name == "CUDA" && !step.passed)
            .map(|step| step.detail.clone());
        if let Some(name) = during {
            self.steps.push(Step { name, passed: false, detail: how.to_owned() });
        }
        if let Some(way) = self.way.take() {
            return way;
        }
        State::Unavailable(cause.map_or_else(|| reason.clone(), |cause| format!("{cause}; and {reason}")))
    }
}

/// The next line without its end, cut after [`LONGEST_LINE`]; `None` at the end.
fn next_line(input: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        let seen = match input.fill_buf() {
            Ok(seen) => seen,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return None,
        };
        if seen.is_empty() {
            return (!line.is_empty()).then_some(line);
        }
        let end = seen.iter().position(|&byte| byte == b'\n');
        let bytes = end.unwrap_or(seen.len());
        line.extend_from_slice(&seen[..bytes.min(LONGEST_LINE - line.len())]);
        input.consume(bytes + usize::from(end.is_some()));
        if end.is_some() {
            return Some(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded() {
        let text = [vec![b'x'; 3 * LONGEST_LINE], b"\n\nyes\nrest".to_vec()].concat();
        let mut input = BufReader::with_capacity(1000, text.as_slice());
        let lines: Vec<Vec<u8>> = std::iter::from_fn(|| next_line(&mut input)).collect();
        assert_eq!(lines[0].len(), LONGEST_LINE);
        assert_eq!(lines[1..], [b"".to_vec(), b"yes".to_vec(), b"rest".to_vec()]);
    }
}
