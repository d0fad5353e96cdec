//! Client CPU an operation: ours, by both ways of reading, beside a bare HTTP client with a checksum and the plain SDK,
//! on the same server in one run, in interleaved rounds.
//!
//! `cargo run --release -p hicache-obj-s3 --example cpu -- [rounds] [operations]`

mod clients;
mod server;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clients::{Client, Operation};

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[allow(clippy::print_stdout, reason = "it prints its result")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "serve") {
        return server::serve(arguments.get(1).map(Path::new));
    }
    let number = |i: usize, default| arguments.get(i).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (rounds, operations) = (number(0, 9), number(1, 256));
    let directory = tempfile::tempdir().expect("a directory");
    let ca_file = directory.path().join("ca.pem");
    for (name, ca_file) in [("HTTP", None), ("TLS", Some(ca_file.as_path()))] {
        println!("\n{name}\n");
        measure(ca_file, rounds, operations);
    }
}

#[allow(clippy::print_stdout, reason = "it prints its result")]
fn measure(ca_file: Option<&Path>, rounds: usize, operations: usize) {
    let mut serving = Command::new(std::env::current_exe().expect("this program"))
        .arg("serve")
        .args(ca_file)
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .expect("a server");
    let port = server::port_of(&mut serving);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut taken: BTreeMap<(Operation, usize, &'static str), Vec<f64>> = BTreeMap::new();
    for bytes in [64 << 10, 512 << 10, 2 << 20] {
        let clients = runtime.block_on(clients::all(port, ca_file, bytes));
        for round in 0..=rounds {
            for client in &clients {
                for operation in [Operation::Put, Operation::Get, Operation::Head] {
                    let time = one(&runtime, client, operation, operations);
                    // The first round makes connections.
                    if let Some(time) = time.filter(|_| round > 0) {
                        taken.entry((operation, bytes, client.name())).or_default().push(time);
                    }
                }
            }
        }
        runtime.block_on(async {
            for client in clients {
                client.close().await;
            }
        });
    }
    println!(
        "| operation | bytes | client | CPU µs, median of {rounds} | least | most |\n|---|---|---|---|---|---|"
    );
    for ((operation, bytes, name), mut times) in taken {
        times.sort_by(f64::total_cmp);
        let (least, most) = (times[0], times[times.len() - 1]);
        println!(
            "| {operation:?} | {bytes} | {name} | {:.0} | {least:.0} | {most:.0} |",
            times[times.len() / 2]
        );
    }
    let _ = serving.kill();
    let _ = serving.wait();
}

/// Microseconds of CPU an operation; `None` for what a client does not do.
fn one(
    runtime: &tokio::runtime::Runtime,
    client: &Client,
    operation: Operation,
    operations: usize,
) -> Option<f64> {
    let before = cpu_time();
    let did = runtime.block_on(client.run(operation, operations));
    let took = cpu_time() - before;
    did.then(|| took.as_secs_f64() * 1e6 / operations as f64)
}
