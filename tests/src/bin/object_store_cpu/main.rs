//! CPU that a client of an object store takes for an operation: ours, by both ways of reading, beside a bare HTTP client
//! with a checksum, `object_store`, and the AWS SDK as it comes. One server for all of them, in a process of its own; each
//! client in a process of its own too, whose CPU is what is measured; rounds in which each has its turn.
//!
//! `cargo xtask object-store --cpu` builds and runs it.

mod bare;
mod clients;
mod process;
mod server;
mod table;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use clients::Kind;
use table::Table;

#[derive(Parser)]
#[command(about = "Client CPU an operation, beside what is used instead")]
struct Arguments {
    /// Rounds that count. One more goes before them, in which connections are made.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Operations a round on pages of 64 KiB; of longer pages fewer.
    #[arg(long, default_value_t = 512)]
    operations: usize,
    /// One of the two tables: HTTP or TLS.
    #[arg(long)]
    only: Option<String>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What a process of this program does on behalf of the first one.
#[derive(Subcommand)]
#[command(hide = true)]
enum Role {
    /// Keeps objects, and says its port first. Over TLS where a file for its certificate is named.
    Serve { ca_file: Option<PathBuf> },
    /// Does what it is told, line by line.
    Client { kind: usize, port: u16, bytes: usize, ca_file: Option<PathBuf> },
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Put,
    Get,
    Head,
}

impl Operation {
    const ALL: [Self; 3] = [Self::Put, Self::Get, Self::Head];

    fn name(self) -> &'static str {
        match self {
            Self::Put => "PUT",
            Self::Get => "GET",
            Self::Head => "HEAD",
        }
    }
}

/// Lengths of pages. HEAD does not know them: it is measured with the first.
const LENGTHS: [usize; 3] = [64 << 10, 512 << 10, 2 << 20];

fn main() {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Serve { ca_file }) => server::serve(ca_file.as_deref()),
        Some(Role::Client { kind, port, bytes, ca_file }) => {
            process::obey(Kind::ALL[kind], port, ca_file.as_deref(), bytes);
        }
        None => measure_all(&arguments),
    }
}

#[allow(clippy::print_stdout, reason = "it prints its result")]
fn measure_all(arguments: &Arguments) {
    let directory = tempfile::tempdir().expect("a directory");
    let certificate = directory.path().join("ca.pem");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!("{cores} cores; load before: {}", load.trim());
    for (name, ca_file) in [("HTTP", None), ("TLS", Some(certificate.as_path()))] {
        if arguments.only.as_ref().is_none_or(|only| only.eq_ignore_ascii_case(name)) {
            println!("\n## {name}\n");
            measure(arguments, ca_file).print(name);
        }
    }
}

fn measure(arguments: &Arguments, ca_file: Option<&Path>) -> Table {
    let server = process::Server::start(ca_file);
    let mut table = Table::default();
    for bytes in LENGTHS {
        // All of them on as many bytes, and each page of theirs at least once.
        let operations = (arguments.operations * LENGTHS[0] / bytes).max(clients::PAGES);
        let mut running: Vec<process::Client> =
            Kind::ALL.iter().map(|kind| process::Client::start(*kind, server.port, ca_file, bytes)).collect();
        for round in 0..=arguments.rounds {
            for place in 0..running.len() {
                // Nobody always comes after the same one.
                let client = &mut running[(place + round) % Kind::ALL.len()];
                for operation in Operation::ALL {
                    if operation == Operation::Head && bytes != LENGTHS[0] {
                        continue;
                    }
                    let time = client.measure(operation, operations);
                    if round > 0 {
                        table.add(operation, bytes, client.kind, time);
                    }
                }
            }
        }
    }
    table
}
