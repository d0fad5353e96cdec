//! A process that opens a store and does what it is told: one command a line in, one JSON object a line out.
//!
//! | module | what is there |
//! |---|---|
//! | `arguments` | what it is opened with |
//! | `open` | from the arguments to a store |
//! | `pages` | memory, and loads and stores whose every byte is compared |
//! | `commands` | the commands |
//! | `owned` | changes and loads of keys with a history: nothing stale, nothing lost |
//! | `random` | a mixed workload |
//! | `replay` | requests of a workload |

mod arguments;
mod commands;
mod open;
mod owned;
mod pages;
mod random;
mod replay;

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use clap::Parser;
use serde_json::{Value, json};

pub use arguments::{ActorArguments, EngineKind, FaultKind, Role};
use commands::Actor;

/// What stands between a command and its answer.
type Problem = Box<dyn std::error::Error>;

/// Runs the program to the end of its input.
pub fn run() -> ExitCode {
    let arguments = ActorArguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime,
        Err(error) => return answer(&json!({ "error": error.to_string() })),
    };
    let begun = Instant::now();
    let mut actor = match runtime.block_on(Actor::open(arguments)) {
        Ok(actor) => actor,
        Err(error) => {
            answer(&json!({ "error": error.to_string() }));
            return ExitCode::FAILURE;
        }
    };
    answer(&json!({ "opened": true, "seconds": begun.elapsed().as_secs_f64() }));
    let mut commands = Commands { lines: lines(), next: None };
    while let Some(command) = commands.take() {
        let outcome = runtime.block_on(actor.obey(&command, &mut commands));
        answer(&outcome.unwrap_or_else(|error| json!({ "error": error.to_string() })));
    }
    if let Err(error) = runtime.block_on(actor.close()) {
        answer(&json!({ "error": error.to_string() }));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Prints an answer; whoever does not listen any more has ended this.
fn answer(value: &Value) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{value}").and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => std::process::exit(0),
    }
}

/// Commands as they come; one that goes on for long looks whether another is waiting.
struct Commands {
    lines: Receiver<String>,
    next: Option<String>,
}

impl Commands {
    fn take(&mut self) -> Option<String> {
        self.next.take().or_else(|| self.lines.recv().ok())
    }

    /// Whether there is another command, or the end of all.
    fn waiting(&mut self) -> bool {
        if self.next.is_none() {
            match self.lines.try_recv() {
                Ok(line) => self.next = Some(line),
                Err(error) => return error == std::sync::mpsc::TryRecvError::Disconnected,
            }
        }
        true
    }
}

fn lines() -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
