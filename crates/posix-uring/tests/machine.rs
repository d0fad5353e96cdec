//! What depends on the machine: file systems, system calls, probes.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests say what they saw and what they went without"
)]

mod fixture;

use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::*;
use hicache_core::{Backend, Direction, Engine as _, Extent, MemoryKind, ProbeContext, ProbeReport, Verdict};
use hicache_posix_uring::{IoMode, PreadBackend, UringBackend, UringConfig};

/// A mount for the length of a test.
struct Mount {
    directory: tempfile::TempDir,
}

impl Mount {
    fn new(arguments: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        run("mount", arguments, Some(directory.path())).then_some(Self { directory })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &["-l"], Some(self.directory.path()));
    }
}

fn run(program: &str, arguments: &[&str], last: Option<&Path>) -> bool {
    let output = Command::new(program).args(arguments).args(last).output();
    output.is_ok_and(|output| output.status.success())
}

/// Directories on other file systems, and what keeps them there.
fn file_systems() -> Vec<(&'static str, PathBuf, Option<Mount>)> {
    let mut found = Vec::new();
    if Path::new("/dev/shm").is_dir() {
        found.push(("tmpfs", PathBuf::from("/dev/shm"), None));
    } else {
        skipped("tmpfs: no /dev/shm");
    }
    match Mount::new(&["-t", "ramfs", "ramfs"]) {
        Some(mount) => found.push(("ramfs", mount.directory.path().to_owned(), Some(mount))),
        None => skipped("ramfs: it can't be mounted; that takes root"),
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(64 << 20).unwrap();
    let made = run("mkfs.ext2", &["-q", "-F", "-b", "1024"], Some(image.path()));
    let loops = made.then(|| Mount::new(&["-o", "loop", image.path().to_str().unwrap()])).flatten();
    match loops {
        Some(mount) => {
            found.push(("ext2 with blocks of 1 KiB", mount.directory.path().to_owned(), Some(mount)))
        }
        None => skipped("ext2 on a loop device: it can't be mounted; that takes root"),
    }
    found
}

#[test]
fn file_systems_without_direct_io_and_with_small_blocks() {
    for (file_system, directory, _mount) in file_systems() {
        for (name, engine) in engines() {
            let engine = &*engine;
            let file = attach_in(engine, &directory);
            let registration = registered(engine, 32, 16_384);
            let place = |page: usize| {
                (page as u64 * 32_768 + [0, 512, 1024, 1][page % 4], [16_384, 1024, 5000][page % 3])
            };
            let extents = (0..32).map(|page| {
                let (offset, len) = place(page);
                Extent { file: file.clone(), offset, memory: filled(&registration, page, len, page) }
            });
            drop(all_done(engine.submit(Direction::Write, extents.collect()).wait()));
            let extents = (0..32).map(|page| {
                let (offset, len) = place(page);
                Extent { file: file.clone(), offset, memory: emptied(&registration, page, len) }
            });
            let read = all_done(engine.submit(Direction::Read, extents.collect()).wait());
            for (page, extent) in read.iter().enumerate() {
                assert!(
                    content(&extent.memory) == bytes(page, extent.memory.bytes()),
                    "{name} on {file_system}"
                );
            }
        }
    }
}

#[test]
fn a_full_file_system_is_no_space() {
    let Some(mount) = Mount::new(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"]) else {
        return skipped("a full file system: it can't be mounted; that takes root");
    };
    for (name, engine) in engines() {
        let engine = &*engine;
        let file = attach_in(engine, mount.directory.path());
        let registration = registered(engine, 32, 65_536);
        let extents = (0..32).map(|page| Extent {
            file: file.clone(),
            offset: page as u64 * 65_536,
            memory: filled(&registration, page, 65_536, page),
        });
        let done = engine.submit(Direction::Write, extents.collect()).wait();
        let (whole, rest): (Vec<_>, Vec<_>) =
            done.outcomes.iter().partition(|outcome| matches!(outcome, Ok(65_536)));
        assert!(whole.len() <= 16 && !rest.is_empty(), "{name}: {} of 32 fit a MiB", whole.len());
        for outcome in rest {
            let error = outcome.as_ref().expect_err("a short write is an error");
            assert_eq!(error.kind(), hicache_core::ErrorKind::NoSpace, "{name}: {error}");
        }
    }
}

async fn probe(backend: &dyn Backend, directory: &Path, memory: MemoryKind) -> ProbeReport {
    let report = backend.probe(&ProbeContext { directory: directory.to_owned(), memory }).await;
    eprintln!("{}: {:?}, {}", report.backend, report.verdict, report.reason);
    for check in &report.checks {
        eprintln!("    {} {}: {}", if check.passed { "+" } else { "-" }, check.name, check.detail);
    }
    assert!(!report.reason.contains('\n'));
    report
}

#[tokio::test]
async fn probes_say_what_works() {
    let here = std::env::temp_dir();
    let uring_works = uring(UringConfig::default()).is_some();
    let backends: [(Box<dyn Backend>, bool); 2] =
        [(Box::new(UringBackend::default()), uring_works), (Box::new(PreadBackend::default()), true)];
    for (backend, works) in backends {
        let report = probe(&*backend, &here, MemoryKind::Host).await;
        assert_eq!(report.verdict == Verdict::Usable, works, "{}", report.reason);
        assert!(
            !works || report.checks.iter().any(|check| check.passed && check.name == "write, read, compare")
        );
        assert_eq!(
            probe(&*backend, Path::new("/nonexistent"), MemoryKind::Host).await.verdict,
            Verdict::Unavailable
        );
        assert_eq!(probe(&*backend, &here, MemoryKind::Device(0)).await.verdict, Verdict::Unavailable);
        assert_eq!(backend.open_engine().is_ok(), works);
    }
}

const PAGE: usize = 512 << 10;
const PAGES: usize = 128;

/// Writes and reads batches of 128 pages of 512 KiB past the page cache.
fn move_batches(batches: usize) {
    let Some(engine) = uring(UringConfig { io: IoMode::Direct, ..UringConfig::default() }) else { return };
    // Beside the build's output, since temporary directories are in memory on some machines.
    let file = attach_in(&engine, Path::new(env!("CARGO_TARGET_TMPDIR")));
    let registration = registered(&engine, PAGES, PAGE);
    for slot in 0..PAGES {
        drop(filled(&registration, slot, PAGE, slot));
    }
    for batch in 0..batches {
        let direction = if batch % 2 == 0 { Direction::Write } else { Direction::Read };
        let extents = (0..PAGES).map(|page| Extent {
            file: file.clone(),
            offset: (page * PAGE) as u64,
            memory: registration.page(page, PAGE, hicache_core::Access::Write).unwrap(),
        });
        all_done(engine.submit(direction, extents.collect()).wait());
    }
}

#[test]
fn load_of_4_batches() {
    move_batches(4);
}

#[test]
fn load_of_24_batches() {
    move_batches(24);
}

#[test]
fn a_tenth_of_a_system_call_a_page() {
    let calls_of = |load: &str| -> Option<u64> {
        let summary = tempfile::NamedTempFile::new().unwrap();
        let output = Command::new("strace")
            .args(["-f", "-c", "-o"])
            .arg(summary.path())
            .arg(std::env::current_exe().unwrap())
            // The leak detector of a sanitized build does not work under strace.
            .env("ASAN_OPTIONS", "detect_leaks=0")
            .args(["--exact", load, "--test-threads=1"])
            .output()
            .ok()?;
        let text = std::fs::read_to_string(summary.path()).unwrap();
        assert!(output.status.success() || text.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let total = text.lines().find(|line| line.trim_end().ends_with(" total"))?;
        total.split_whitespace().nth(3)?.parse().ok()
    };
    if uring(UringConfig::default()).is_none() {
        return;
    }
    // What is not of the batches is in both and cancels out. The least of three: others use the machine.
    let rounds =
        (0..3).map(|_| Some(calls_of("load_of_24_batches")?.saturating_sub(calls_of("load_of_4_batches")?)));
    let Some(calls) = rounds.collect::<Option<Vec<_>>>().and_then(|rounds| rounds.into_iter().min()) else {
        return skipped("the count of system calls: there is no strace, or it may not trace");
    };
    let pages = (20 * PAGES) as f64;
    println!("{calls} system calls for {pages} pages of 512 KiB: {:.3} a page", calls as f64 / pages);
    assert!(calls as f64 / pages <= 0.1);
}
