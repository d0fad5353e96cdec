//! The program for machines with a GPU, with a library that stands in for libcuda: everything but the GPU and its driver runs.
//! Without a C++ compiler, or where there is a GPU's own driver to be loaded, the tests say so.

#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

mod standins;

/// The example `gpu`; `cargo test` builds it beside the tests, `cargo test --test` does not.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("examples/gpu");
    assert!(program.is_file(), "{} is missing: cargo build -p hicache-gds --examples", program.display());
    program
}

fn run(library: &Path, variables: &[(&str, &str)]) -> (Output, String) {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(program())
        .env_clear()
        .env("LD_LIBRARY_PATH", library)
        // Who calls it while the process ends is found out.
        .env("STANDIN_STRICT", "1")
        .envs(variables.iter().copied())
        .current_dir(directory.path())
        .args(["--short", "--directory"])
        .arg(directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

#[test]
fn everything_holds() {
    let Some(library) = standins::cuda() else { return };
    let (output, text) = run(library.path(), &[("STANDIN_DEVICES", "2")]);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "device 0 of 2: stand-in",
        "copies in batches: yes",
        "staged, device memory: 24 passed, 0 failed, 1 skipped",
        "refusals: each with its reason",
        "a freed tensor: refused",
        "checksums by the kernel: 58 pages, bit for bit the CPU's",
        "checksums of staged: by the kernel: 3 by the kernel, 0 through pinned memory",
        "copies: 50 pairs of layouts compared with the CPU's\n",
        "short copies: by the kernel: ",
        "all held",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
}

#[test]
fn an_older_driver_copies_one_by_one() {
    let Some(library) = standins::cuda() else { return };
    let (output, text) = run(library.path(), &[("STANDIN_VERSION", "12010")]);
    assert!(output.status.success() && text.contains("copies in batches: no"), "{text}");
}

/// The program finds it; the engines don't need it.
#[test]
fn a_kernel_that_is_wrong_is_said() {
    let Some(library) = standins::cuda() else { return };
    let (output, text) = run(library.path(), &[("STANDIN_KERNELS", "odd copies")]);
    let reason = "short copies: by the copy engines (the kernel that copies gets known bytes wrong";
    assert!(output.status.success() && text.contains(reason), "{text}");
    let (output, text) = run(library.path(), &[("STANDIN_KERNELS", "unaligned")]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("WRONG  checksums by the kernel: "), "{text}");
    assert!(text.contains("checksums of staged: through pinned memory (the kernel's checksum of "), "{text}");
    assert!(text.contains("): 0 by the kernel, 3 through pinned memory"), "{text}");
}

#[test]
fn a_driver_without_a_device_is_said_at_once() {
    let Some(library) = standins::cuda() else { return };
    let (output, text) = run(library.path(), &[("STANDIN_DEVICES", "0")]);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.starts_with("not run: cuInit answered 100: no device is there"), "{text}");
}

#[test]
fn a_device_that_is_full_is_an_error_with_its_reason() {
    let Some(library) = standins::cuda() else { return };
    let (output, text) = run(library.path(), &[("STANDIN_MEMORY", "1000000")]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("the memory does not suffice"), "{text}");
}

/// The driver goes as a process ends. A thread that still frees memory then, or lets go of a stream, calls a library that is no
/// longer there; the one that stands in ends the process by a signal.
#[test]
fn nothing_is_called_while_the_process_ends() {
    let Some(library) = standins::cuda() else { return };
    for memory in ["1000000", "100000000000"] {
        let (output, text) = run(library.path(), &[("STANDIN_MEMORY", memory), ("STANDIN_FREE_MS", "5")]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some(), "{}: {text}{errors}", output.status);
        assert!(!errors.contains("stand-in:"), "{errors}");
    }
}
