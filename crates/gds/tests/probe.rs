//! The probe, with every library of cuFile that is installed, and with processes that hang and crash.

#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hicache_gds::probe::{Asked, Helper, Limits, Question, State, ask};

/// `hicache probe` says why within this time, whatever is installed.
const LONGEST: Duration = Duration::from_secs(2);

fn helper() -> Helper {
    Helper { program: env!("CARGO_BIN_EXE_hicache-gds-probe").into(), arguments: Vec::new() }
}

fn shell(script: &str) -> Helper {
    Helper { program: "sh".into(), arguments: vec!["-c".into(), OsString::from(script)] }
}

fn asked(helper: &Helper, library: Option<&Path>, limits: Limits) -> Asked {
    let directory = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let question = Question { device: 0, library, directory: directory.path() };
    let asked = ask(helper, question, limits).unwrap();
    // With a GPU the first context alone may take longer.
    let longest = if asked.staged.is_ok() { limits.whole + LONGEST } else { LONGEST };
    assert!(start.elapsed() < longest, "it took {:?}: {asked:?}", start.elapsed());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing stays behind");
    asked
}

fn reason(asked: &Asked) -> &str {
    match &asked.state {
        State::Unavailable(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// Libraries under `target/gds`, by the name of the version.
fn installed() -> Vec<(String, PathBuf)> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/gds");
    let mut found: Vec<(String, PathBuf)> = std::fs::read_dir(installed)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().into_string().ok()?, entry.path().join("lib/libcufile.so.0")))
        })
        .filter(|(_, library)| library.is_file())
        .collect();
    found.sort();
    found
}

#[test]
fn the_reason_is_there_in_time() {
    let asked = asked(&helper(), None, Limits::default());
    println!("{}", asked.state);
    let names: Vec<&str> = asked.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names[0], "CUDA");
    assert!(names.contains(&"kernel modules") && names.contains(&"udev"), "{names:?}");
    if asked.staged.is_ok() {
        return println!("went without: a machine without a GPU");
    }
    assert!(reason(&asked).contains("CUDA") || reason(&asked).contains("cu"), "{asked:?}");
}

#[test]
fn every_installed_cufile_is_asked_in_time() {
    let installed = installed();
    if installed.is_empty() {
        println!("went without: no cuFile under target/gds; `cargo xtask gds install` puts some there");
    }
    for (version, library) in installed {
        let start = Instant::now();
        let asked = asked(&helper(), Some(&library), Limits::default());
        println!("{version}, {} ms: {}", start.elapsed().as_millis(), asked.state);
        let cufile = asked.steps.iter().find(|step| step.name == "cuFile").unwrap();
        assert!(cufile.passed, "{version} can't be loaded: {}", cufile.detail);
        // A driver that opened or not, or hung: each is said.
        assert!(asked.steps.iter().any(|step| step.name == "cuFile's driver"), "{version}: {asked:?}");
    }
}

#[test]
fn a_library_that_is_none_is_named() {
    let asked = asked(&helper(), Some(Path::new("/nowhere/libcufile.so.0")), Limits::default());
    let cufile = asked.steps.iter().find(|step| step.name == "cuFile").unwrap();
    assert!(!cufile.passed && cufile.detail.contains("/nowhere/libcufile.so.0"), "{cufile:?}");
}

#[test]
fn a_process_that_hangs_is_ended_and_says_where_it_hung() {
    let short = Duration::from_millis(300);
    let limits = Limits { whole: short, without_device: Duration::ZERO };
    let silent = asked(&shell("sleep 60"), None, limits);
    assert!(reason(&silent).contains("no answer within 300ms"), "{silent:?}");
    let begun = asked(&shell("echo '{\"begins\":\"the driver\"}'; sleep 60"), None, limits);
    assert!(reason(&begun).contains("in the step \"the driver\""), "{begun:?}");
    let mute = asked(&shell("exec >&-; exec sleep 5"), None, limits);
    assert!(reason(&mute).contains("no output any more"), "{mute:?}");
    let strange =
        asked(&shell("printf '\\377\\n'; echo '{\"begins\":\"the rest\"}'; sleep 60"), None, limits);
    assert!(reason(&strange).contains("in the step \"the rest\""), "{strange:?}");
    // Without a device there is less to wait for.
    let script = "echo '{\"seen\":{\"name\":\"CUDA\",\"passed\":false,\"detail\":\"none\"}}'; sleep 60";
    let limits = Limits { whole: Duration::from_secs(60), without_device: short };
    let without = asked(&shell(script), None, limits);
    assert!(reason(&without).starts_with("none; and no answer within 300ms"), "{without:?}");
    assert!(begun.staged.is_err() && begun.steps.last().is_some_and(|step| !step.passed));
}

#[test]
fn a_process_that_crashes_says_what_stood_before() {
    let script = "echo '{\"staged\":{\"Ok\":null}}'; echo 'a library talks'; echo '{\"begins\":\"bytes\"}'; kill -SEGV $$";
    let crashed = asked(&shell(script), None, Limits::default());
    assert!(reason(&crashed).contains("signal: 11"), "{crashed:?}");
    assert_eq!(crashed.staged, Ok(()), "what was seen before stands");
    let failed = asked(&shell("exit 7"), None, Limits::default());
    assert!(reason(&failed).contains("exit status: 7"), "{failed:?}");
}

#[test]
fn a_helper_that_is_not_there_is_an_error() {
    let helper = Helper { program: "/nowhere/hicache".into(), arguments: Vec::new() };
    let question = Question { device: 0, library: None, directory: Path::new("/tmp") };
    let error = ask(&helper, question, Limits::default()).unwrap_err();
    assert!(error.to_string().contains("/nowhere/hicache"), "{error}");
}
