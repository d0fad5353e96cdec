//! The probe where there is "a device", and a library that stands in for cuFile's: which way bytes go is what was seen, and not
//! what a driver could do.

#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use hicache_core::{Backend, ErrorKind, MemoryKind, ProbeContext, Verdict};
use hicache_gds::probe::{Asked, Helper, Limits, Question, State, ask};
use hicache_gds::{CuFileConfig, GdsBackend, StagedConfig};

mod standins;

/// Both libraries.
struct Ground {
    folder: tempfile::TempDir,
    cufile: PathBuf,
}

impl Ground {
    fn new(arguments: &[&str]) -> Option<Self> {
        let folder = standins::cuda()?;
        let cufile = folder.path().join("libcufile.so.0");
        standins::build("tests/standin_cufile/cufile.cpp", &cufile, arguments)
            .then_some(Self { folder, cufile })
    }

    fn helper(&self, variables: &[&str]) -> Helper {
        let mut path = OsString::from("LD_LIBRARY_PATH=");
        path.push(self.folder.path());
        let mut arguments = vec![path];
        arguments.extend(variables.iter().map(OsString::from));
        arguments.push(env!("CARGO_BIN_EXE_hicache-gds-probe").into());
        Helper { program: "env".into(), arguments }
    }

    fn asked(&self, device: u32, variables: &[&str]) -> Asked {
        // Not under /tmp, which may take no direct I/O.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let question = Question { device, library: Some(&self.cufile), directory: directory.path() };
        let asked = ask(&self.helper(variables), question, Limits::default()).unwrap();
        println!("{variables:?}: {asked:?}");
        asked
    }
}

/// Whether a step passed; `None` where it was not tried.
fn step(asked: &Asked, name: &str) -> Option<bool> {
    asked.steps.iter().find(|step| step.name == name).map(|step| step.passed)
}

const DIRECT: &str = "bytes past host memory";

#[test]
fn what_compatibility_mode_serves_is_not_called_gpudirect() {
    let Some(ground) = Ground::new(&[]) else { return };
    // The module is loaded, a disk is served, and the bytes compare: all of it says nothing.
    let compat = ground.asked(0, &["STANDIN_NVFS=1"]);
    assert_eq!(compat.state, State::Compat);
    assert_eq!((step(&compat, "cuFile's bytes"), step(&compat, DIRECT)), (Some(true), Some(false)));
    let direct = ground.asked(0, &["STANDIN_NVFS=1", "STANDIN_DIRECT=1"]);
    assert_eq!(direct.state, State::NvFs);
    assert_eq!((step(&direct, DIRECT), step(&direct, "batches past host memory")), (Some(true), Some(true)));
    assert_eq!(direct.staged, Ok(()));
    // Nothing says that it was forbidden: nothing is known.
    let stubborn = ground.asked(0, &["STANDIN_NVFS=1", "STANDIN_DIRECT=1", "STANDIN_STUBBORN=1"]);
    assert_eq!((stubborn.state, step(&direct, DIRECT)), (State::Compat, Some(true)));
    let without = ground.asked(0, &[]);
    assert_eq!((&without.state, step(&without, DIRECT)), (&State::Compat, None));
}

#[test]
fn a_version_that_can_not_be_told_by_a_call_is_told_by_its_variable() {
    let Some(ground) = Ground::new(&["-DOLD"]) else { return };
    assert_eq!(ground.asked(0, &["STANDIN_NVFS=1"]).state, State::Compat);
    assert_eq!(ground.asked(0, &["STANDIN_NVFS=1", "STANDIN_DIRECT=1"]).state, State::NvFs);
    assert_eq!(ground.asked(0, &["STANDIN_P2P=1", "STANDIN_DIRECT=1"]).state, State::P2pDma);
}

#[test]
fn peer_to_peer_is_told_by_its_flags() {
    let Some(ground) = Ground::new(&[]) else { return };
    let direct = ground.asked(0, &["STANDIN_P2P=1", "STANDIN_DIRECT=1"]);
    assert_eq!(direct.state, State::P2pDma);
    let driver = direct.steps.iter().find(|step| step.name == "cuFile's driver").unwrap();
    assert!(driver.detail.contains("peer-to-peer yes (flags: PCI P2PDMA)"), "{driver:?}");
    assert_eq!(ground.asked(0, &["STANDIN_P2P=1"]).state, State::Compat);
    assert_eq!(ground.asked(0, &["STANDIN_P2P=0", "STANDIN_DIRECT=1"]).state, State::Compat);
}

#[test]
fn a_crash_in_batches_takes_nothing_with_it() {
    let Some(ground) = Ground::new(&[]) else { return };
    let direct = ["STANDIN_NVFS=1", "STANDIN_DIRECT=1"];
    for (how, compat) in [("STANDIN_BATCHES=crash", false), ("STANDIN_BATCHES=swap", true)] {
        let asked = ground.asked(0, &[&direct[..], &[how]].concat());
        assert_eq!(asked.state, State::NvFs, "{how}");
        assert_eq!(step(&asked, "batches past host memory"), Some(false), "{how}");
        if compat {
            assert_eq!(ground.asked(0, &[how]).state, State::Compat);
        }
    }
}

#[test]
fn the_device_that_was_asked_for_is_asked() {
    let Some(ground) = Ground::new(&[]) else { return };
    let second = ground.asked(1, &["STANDIN_DEVICES=2"]);
    assert_eq!((second.state, second.staged), (State::Compat, Ok(())));
    let hidden = ground.asked(1, &["STANDIN_DEVICES=1"]);
    let State::Unavailable(reason) = hidden.state else { panic!("{:?}", hidden.state) };
    assert!(reason.contains("device 1 does not exist; this process sees 1"), "{reason}");
}

/// A library that prints without ending its line hides none of ours.
#[test]
fn what_a_library_prints_hides_nothing() {
    let Some(ground) = Ground::new(&[]) else { return };
    let asked = ground.asked(0, &[]);
    assert_eq!(step(&asked, "cuFile's driver"), Some(true));
    assert_eq!(asked.state, State::Compat);
}

#[tokio::test]
async fn the_backend_says_which_way() {
    let Some(ground) = Ground::new(&[]) else { return };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (variable, words) in
        [("STANDIN_DIRECT=1", "GPUDirect Storage by nvidia-fs"), ("NONE=1", "through pinned host memory")]
    {
        let backend = GdsBackend {
            device: 0,
            cufile: CuFileConfig { library: Some(ground.cufile.clone()), ..CuFileConfig::default() },
            staged: StagedConfig::default(),
            helper: Some(ground.helper(&["STANDIN_NVFS=1", "STANDIN_DEVICES=2", variable])),
            directory: directory.path().to_owned(),
            below: Arc::new(|| Err(hicache_core::Error::new(ErrorKind::Unavailable, "nothing below"))),
        };
        let context = ProbeContext { directory: directory.path().to_owned(), memory: MemoryKind::Device(1) };
        let report = backend.probe(&context).await;
        assert!(report.verdict == Verdict::Usable && report.reason.contains(words), "{report:?}");
    }
}
