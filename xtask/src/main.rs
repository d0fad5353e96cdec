//! Tasks of the workspace. `cargo xtask --help` lists them.

mod bench;
mod cargo;
mod counted;
mod demo;
mod gate;
mod gds;
mod gpu;
mod libclang;
mod matrix;
mod nixl;
mod object_store;
mod python;
mod sglang;
mod soak;
mod tidy;
mod tree;
mod venv;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the hicache workspace")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The main job, in seconds: pages of a workload stored, the process killed, every page back.
    Demo(demo::Arguments),
    /// The whole gate: format, lints, tests, sanitizer, the recorded trace, kills, docs.
    Test(gate::Arguments),
    /// The store beside the machine's limit, and beside what is used instead; `bench --help` says more.
    Bench(bench::Arguments),
    /// Tests whose length is an argument, for long: damage, power failures, kills, everything mixed, the protocol.
    Soak(soak::Arguments),
    /// The Python package: builds the wheel into `target/wheels`, installs it into a fresh environment, tests it there.
    Python(python::Arguments),
    /// The wheel in a real SGLang without a GPU: servers, controllers, faults; `-k server` picks some.
    Sglang(sglang::Arguments),
    /// The object store and the tiers against a real server, on the recorded trace.
    ObjectStore(object_store::Arguments),
    /// cuFile's libraries and headers for the tests of `crates/gds`.
    Gds(gds::Arguments),
    /// What must be seen on a machine with a GPU: conformance, copies, rates.
    Gpu(gpu::Arguments),
    /// NIXL's wheel and an object store, installed under `target/`, and the tests on them.
    Nixl(nixl::Arguments),
    /// Every combination of features, the oldest versions of what we stand on, the oldest compiler.
    Matrix(matrix::Arguments),
    /// The invariants that a program can check.
    Tidy,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test(arguments) => gate::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Soak(arguments) => soak::run(&arguments),
        Task::Python(arguments) => python::run(&arguments),
        Task::Sglang(arguments) => sglang::run(&arguments),
        Task::ObjectStore(arguments) => object_store::run(&arguments),
        Task::Gds(arguments) => gds::run(&arguments),
        Task::Gpu(arguments) => gpu::run(&arguments),
        Task::Nixl(arguments) => nixl::run(&arguments),
        Task::Matrix(arguments) => matrix::run(&arguments),
        Task::Tidy => tidy::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("\nerror: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Prints a line; a closed pipe is no reason to stop.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}
