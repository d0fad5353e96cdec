//! A probe that may hang or crash, in a process that can be killed: `hicache probe` of one backend.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hicache_core::probing::probe_on_a_thread;
use hicache_core::{Backend, Check, Engine, Error, ErrorKind, Offer, ProbeContext, ProbeReport, Result};
use hicache_nixl_backend::NixlFileBackend;
use hicache_nixl_backend::backend::gpu;
use serde_json::Value;

use crate::config::{self, Config, Origin};

const PAUSE: Duration = Duration::from_millis(10);
/// On top of the child's time, so that it is the one that says what hung.
const GRACE: Duration = Duration::from_secs(5);
/// How long the end of its output is waited for after its own: something that it started may hold that open.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// No report is longer.
const LONGEST_ANSWER: usize = 4 << 20;
/// Of what it says on standard error, so much is kept, from the end.
const LAST_WORDS: usize = 2 << 10;

/// A backend that is probed by a helper.
#[derive(Debug)]
pub(super) struct ProbedInChild {
    inner: NixlFileBackend,
    config: Config,
}

impl ProbedInChild {
    pub(super) fn new(inner: NixlFileBackend, config: &Config) -> Self {
        Self { inner, config: config.clone() }
    }
}

#[async_trait]
impl Backend for ProbedInChild {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn offer(&self) -> Offer {
        self.inner.offer()
    }

    fn summary(&self) -> &'static str {
        self.inner.summary()
    }

    async fn probe(&self, context: &ProbeContext) -> ProbeReport {
        if self.config.settings().nixl.probe == "inline" {
            return self.inner.probe(context).await;
        }
        let longest = Duration::from_millis(self.config.settings().nixl.probe_timeout_ms);
        let (name, config, directory) = (self.name(), self.config.clone(), context.directory.clone());
        let memory = self.inner.plugin.moves(context.memory);
        let work = move |checks: &mut Vec<Check>| {
            if !memory {
                return Err(Error::new(ErrorKind::Unsupported, "this kind of memory is not moved"));
            }
            // The driver's own files say most of it, and no process is needed for that.
            gpu::device_node().inspect_err(|error| checks.push(Check::failed("GPU", error.message())))?;
            ask(&config, name, &directory, longest, checks)
        };
        probe_on_a_thread(name, Offer::Engine, longest + GRACE, work).await
    }

    fn open_engine(&self) -> Result<Arc<dyn Engine>> {
        self.inner.open_engine()
    }
}

fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, message)
}

/// The command that probes.
fn helper(config: &Config) -> Result<Command> {
    let words = crate::helper::words(config).unwrap_or_default();
    let [program, arguments @ ..] = words.as_slice() else {
        return Err(unavailable(
            "no helper: it may hang, and is only probed by `hicache`, which is not on PATH; set probe_helper",
        ));
    };
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// Has the helper probe the backend, and notes what it saw.
fn ask(
    config: &Config,
    name: &str,
    directory: &Path,
    longest: Duration,
    checks: &mut Vec<Check>,
) -> Result<String> {
    let child = start(helper(config)?, name, config, directory)?;
    let (answer, words) = finish(child, longest)?;
    read(&answer, &words, name, checks)
}

fn start(mut command: Command, name: &str, config: &Config, directory: &Path) -> Result<Child> {
    command.args(["probe", "--json", "--only", name, "--dir"]).arg(directory);
    command.args(["--set", "nixl.probe=inline"]);
    // It is told what it is to know: a file that was replaced here, or is broken, is no business of its.
    config::variables().for_each(|variable| _ = command.env_remove(variable));
    // Nothing of an object store is among it, so no secret is.
    for explained in config.explain() {
        let field = explained.field;
        let concerns = field.starts_with("nixl.") || field.starts_with("nixl_gds") || field == "io";
        if concerns && explained.origin != Origin::Default && field != "nixl.probe" {
            command.args(["--set", &format!("{field}={}", explained.text)]);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
        .spawn()
        .map_err(|error| unavailable(format!("the helper {command:?} does not start")).with_source(error))
}

/// What comes out of a pipe, read by a thread, so that whoever writes never waits for us.
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    ended: Receiver<()>,
}

impl Output {
    /// Keeps the first `most` bytes and one, or the last ones.
    fn of(pipe: Option<impl Read + Send + 'static>, most: usize, last: bool) -> Self {
        let (bytes, (end, ended)) = (Arc::<Mutex<Vec<u8>>>::default(), channel());
        let (kept, mut buffer) = (Arc::clone(&bytes), [0; 4096]);
        let read = move || {
            let Some(mut pipe) = pipe else { return };
            while let Ok(len @ 1..) = pipe.read(&mut buffer) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..len]);
                if last {
                    let over = kept.len().saturating_sub(most);
                    kept.drain(..over);
                } else {
                    kept.truncate(most + 1);
                }
            }
            let _ = end.send(());
        };
        // Without a thread there are no words, and no answer.
        let _ = thread::Builder::new().name("hicache-helper".into()).spawn(read);
        Self { bytes, ended }
    }

    /// What came, to its end if that comes soon.
    fn take(&self) -> Vec<u8> {
        let _ = self.ended.recv_timeout(LAST_OUTPUT);
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same as the end of a message.
    fn words(&self) -> String {
        let bytes = self.take();
        let text = String::from_utf8_lossy(&bytes);
        let plain = |c: char| if c.is_control() || c == char::REPLACEMENT_CHARACTER { ' ' } else { c };
        let lines = text.lines().map(|line| line.chars().map(plain).collect::<String>().trim().to_owned());
        let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
        if lines.is_empty() { String::new() } else { format!("; it said: {}", lines.join(" | ")) }
    }
}

/// Waits for the child, and kills it when its time is over. Its answer, and its last words.
fn finish(mut child: Child, longest: Duration) -> Result<(String, String)> {
    let answer = Output::of(child.stdout.take(), LONGEST_ANSWER, false);
    let errors = Output::of(child.stderr.take(), LAST_WORDS, true);
    let until = Instant::now() + longest;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < until => thread::sleep(PAUSE),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                let words = errors.words();
                let message = format!("no answer within {longest:?}; its process was killed{words}");
                return Err(unavailable(message));
            }
            Err(error) => return Err(unavailable("the helper can't be waited for").with_source(error)),
        }
    };
    let (answer, words) = (answer.take(), errors.words());
    if answer.len() > LONGEST_ANSWER {
        return Err(unavailable(format!("the helper's answer is over {LONGEST_ANSWER} bytes{words}")));
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match answer.trim().is_empty() {
        true => Err(unavailable(format!("the helper ended without an answer: {status}{words}"))),
        false => Ok((answer, words)),
    }
}

/// What the child saw.
fn read(text: &str, words: &str, name: &str, checks: &mut Vec<Check>) -> Result<String> {
    let strange = || unavailable(format!("the helper's answer is not that of `hicache probe --json`{words}"));
    let report: Value = serde_json::from_str(text).map_err(|error| strange().with_source(error))?;
    let backends = report["directories"][0]["backends"].as_array().ok_or_else(strange)?;
    let seen = backends.iter().find(|seen| seen["backend"] == name).ok_or_else(strange)?;
    for check in seen["checks"].as_array().into_iter().flatten() {
        checks.push(Check {
            name: check["name"].as_str().unwrap_or_default().to_owned(),
            passed: check["passed"] == true,
            detail: check["detail"].as_str().unwrap_or_default().to_owned(),
        });
    }
    let reason = seen["reason"].as_str().unwrap_or_default().to_owned();
    if seen["verdict"] == "usable" { Ok(reason) } else { Err(unavailable(reason)) }
}

#[cfg(test)]
#[path = "child_tests.rs"]
mod tests;
