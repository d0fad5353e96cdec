//! The processes: the server, and a client each.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::Operation;
use super::clients::{self, Kind};

/// A process of this program; killed when it is dropped.
struct Other {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Other {
    fn start(arguments: impl IntoIterator<Item = String>) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let input = child.stdin.take().expect("its input");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, input, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn named(ca_file: Option<&Path>) -> Option<String> {
    ca_file.map(|file| file.display().to_string())
}

/// The server.
pub(crate) struct Server {
    _process: Other,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start(ca_file: Option<&Path>) -> Self {
        let mut process = Other::start(["serve".to_owned()].into_iter().chain(named(ca_file)));
        let port = process.line().parse().expect("a port");
        Self { _process: process, port }
    }
}

/// One of those that are compared.
pub(crate) struct Client {
    pub(crate) kind: Kind,
    process: Other,
}

impl Client {
    pub(crate) fn start(kind: Kind, port: u16, ca_file: Option<&Path>, bytes: usize) -> Self {
        let number = Kind::ALL.iter().position(|one| *one == kind).unwrap_or_default();
        let words = ["client".to_owned(), number.to_string(), port.to_string(), bytes.to_string()];
        Self { kind, process: Other::start(words.into_iter().chain(named(ca_file))) }
    }

    /// Microseconds of CPU an operation.
    pub(crate) fn measure(&mut self, operation: Operation, operations: usize) -> f64 {
        writeln!(self.process.input, "{} {operations}", operation.name()).expect("a client that lives");
        let line = self.process.line();
        line.parse().unwrap_or_else(|_| panic!("{} of {}: {line:?}", operation.name(), self.kind.name()))
    }
}

/// CPU that this process has taken, in the kernel and out of it.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Does what the lines of the input say until there are no more of them.
#[allow(clippy::print_stdout, reason = "the answers are read there")]
pub(crate) fn obey(kind: Kind, port: u16, ca_file: Option<&Path>, bytes: usize) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // As many threads as our storage has of its own.
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
    let client = runtime.block_on(clients::connect(kind, port, ca_file, bytes));
    for line in std::io::stdin().lines() {
        let line = line.expect("a line");
        let (name, number) = line.split_once(' ').expect("an operation and how many");
        let operation = Operation::ALL.into_iter().find(|operation| operation.name() == name);
        let (operation, number) = (operation.expect("an operation"), number.parse().expect("a number"));
        let before = cpu_time();
        let did = runtime.block_on(clients::run(&client, operation, number));
        let took = cpu_time() - before;
        match did {
            Ok(()) => println!("{}", took.as_secs_f64() * 1e6 / number as f64),
            Err(error) => println!("failed: {error}"),
        }
    }
}
