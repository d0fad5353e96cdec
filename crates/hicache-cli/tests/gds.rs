//! `hicache probe` of GPU memory: the reason, in time, whatever cuFile is installed.

#![cfg(feature = "gds")]
#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

/// What the command may take here. It is under two seconds where nothing else runs; what hangs is ended after that.
const LONGEST: Duration = Duration::from_secs(10);

/// The row of `gds`, for this library.
fn probed(library: &Path) -> Value {
    let (directory, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let begun = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_hicache"))
        .env_clear()
        .current_dir(place.path())
        .args(["probe", "--json", "--set", "backend=memory", "--dir"])
        .arg(directory.path())
        .arg("--cufile")
        .arg(library)
        .output()
        .unwrap();
    let took = begun.elapsed();
    assert!(took < LONGEST, "it took {took:?}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for left in [&directory, &place] {
        assert_eq!(std::fs::read_dir(left.path()).unwrap().count(), 0, "nothing stays behind");
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let backends = report["directories"][0]["backends"].as_array().unwrap();
    backends.iter().find(|seen| seen["backend"] == "gds").unwrap().clone()
}

/// Libraries that `cargo xtask gds install` has put under `target/gds`.
fn installed() -> Vec<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/gds");
    let versions = std::fs::read_dir(installed).into_iter().flatten().filter_map(Result::ok);
    versions.map(|version| version.path().join("lib/libcufile.so.0")).filter(|file| file.is_file()).collect()
}

#[test]
fn a_missing_library_is_said() {
    let seen = probed(Path::new("/nowhere/libcufile.so.0"));
    let checks = seen["checks"].as_array().unwrap();
    let cufile = checks.iter().find(|check| check["name"] == "cuFile").unwrap();
    assert_eq!(cufile["passed"], false);
    assert!(cufile["detail"].as_str().unwrap().contains("/nowhere/libcufile.so.0"), "{cufile}");
}

#[test]
fn the_reason_comes_in_time_with_every_library() {
    let installed = installed();
    if installed.is_empty() {
        println!("went without: no cuFile under target/gds; `cargo xtask gds install` puts some there");
    }
    for library in installed {
        let begun = Instant::now();
        let seen = probed(&library);
        println!("{} ms, {}: {}", begun.elapsed().as_millis(), library.display(), seen["reason"]);
        if seen["verdict"] == "usable" {
            println!("went without: a machine without a GPU");
            continue;
        }
        assert!(seen["reason"].as_str().is_some_and(|reason| reason.contains("CUDA")), "{seen}");
    }
}
