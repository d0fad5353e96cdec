//! Actors from outside: starting, telling, asking, killing.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

use crate::actor::ActorArguments;
use crate::{actor_binary, number};

/// Longer than any answer takes unless it hangs.
const LONG: Duration = Duration::from_secs(60);

/// A process that holds a store. It is killed when this is dropped.
#[derive(Debug)]
pub struct Actor {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    /// What it was started with.
    pub arguments: ActorArguments,
}

/// What a process holds of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Open files.
    pub files: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
}

impl Actor {
    /// Starts one, and does not wait until its store is open.
    pub fn launch(arguments: &ActorArguments) -> Self {
        let mut child = actor_binary()
            .args(arguments.command_line())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the actor starts");
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("it has an output"));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let input = child.stdin.take();
        Self { child, input, lines, arguments: arguments.clone() }
    }

    /// Waits until the store of a launched one is open; the error is what the store said.
    ///
    /// # Errors
    /// What the store said.
    pub fn opened(mut self) -> Result<Self, String> {
        let answer = self.answer();
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(self),
        }
    }

    /// Starts one whose store must open.
    pub fn start(arguments: &ActorArguments) -> Self {
        Self::launch(arguments)
            .opened()
            .unwrap_or_else(|error| panic!("a store does not open: {error}\n{arguments:?}"))
    }

    /// Gives a command, and does not wait for its answer.
    pub fn tell(&mut self, command: &str) {
        let input = self.input.as_mut().expect("it was not ended");
        if let Err(error) = writeln!(input, "{command}") {
            panic!("{:?} does not listen to {command:?}: {error}", self.arguments);
        }
    }

    /// Waits for the next answer, which must come in time. An answer that tells of a wrong page is never right.
    pub fn answer(&mut self) -> Value {
        let line = match self.lines.recv_timeout(LONG) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("no answer for {LONG:?}: {:?}", self.arguments),
            Err(RecvTimeoutError::Disconnected) => panic!("it died without a word: {:?}", self.arguments),
        };
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        let wrong = answer["wrong"].as_array().map_or(0, Vec::len);
        assert_eq!(wrong, 0, "{line}\nby {:?}", self.arguments);
        answer
    }

    /// Gives a command and waits for its answer, which must be no error.
    pub fn ask(&mut self, command: &str) -> Value {
        let answer = self.try_ask(command);
        assert!(answer["error"].is_null(), "{command}: {answer}\nby {:?}", self.arguments);
        answer
    }

    /// Gives a command and waits for its answer, error or not.
    pub fn try_ask(&mut self, command: &str) -> Value {
        self.tell(command);
        self.answer()
    }

    /// A number of the store's sizes and counts.
    pub fn stat(&mut self, field: &str) -> u64 {
        number(&self.ask("stat")["stat"], field)
    }

    /// What it holds of the machine; `None` if it is gone.
    pub fn holding(&self) -> Option<Holding> {
        let process = format!("/proc/{}", self.child.id());
        let files = std::fs::read_dir(format!("{process}/fd")).ok()?.count() as u64;
        let status = std::fs::read_to_string(format!("{process}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let resident_bytes = resident.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10;
        Some(Holding { files, resident_bytes })
    }

    /// SIGKILL, whatever it is doing.
    pub fn kill(mut self) -> ActorArguments {
        self.child.kill().expect("it is ours to kill");
        self.child.wait().expect("it was killed");
        self.arguments.clone()
    }

    /// Ends its input, upon which it closes its store; that must succeed.
    pub fn end(mut self) {
        self.input = None;
        let begun = std::time::Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                let said: Vec<String> = self.lines.try_iter().collect();
                assert!(status.success(), "closing ended with {status}: {said:?}\n{:?}", self.arguments);
                return;
            }
            assert!(begun.elapsed() < LONG, "closing hangs: {:?}", self.arguments);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
