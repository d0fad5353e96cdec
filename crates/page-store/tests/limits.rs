//! Processes that may not open another file, or write beyond some length: a clear answer, and everything goes on when
//! the limit is raised. In processes of their own, since a limit is the process's.

mod fixture;

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use fixture::{Bench, in_time, limited, pages, pread, say, stat};
use hicache_core::{ErrorKind, Outcome, Storage};
use hicache_page_store::PageStore;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CAPACITY: u64 = 16 << 20;

/// What the child processes do, told on their standard input: the name of a case and a root.
#[test]
#[ignore = "a part of the others, which run it in processes of its own"]
fn child() {
    let mut line = String::new();
    if std::io::stdin().is_terminal() || std::io::stdin().read_line(&mut line).unwrap() == 0 {
        return;
    }
    let (case, root) = line.trim().split_once(' ').unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let root = PathBuf::from(root);
    match case {
        "files" => runtime.block_on(no_more_files(&root)),
        _ => runtime.block_on(no_longer_files(&root)),
    }
    say("CASE done");
}

/// This test binary again, with the signal for a file that grows too long ignored, so that it is an error.
fn run(case: &str, root: &Path) {
    let mut child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{case} {}", root.display()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("CASE done"), "{case}: {text}\n{error}");
    for line in text.lines().filter(|line| line.contains("went without:") || line.contains("FIGURES")) {
        say(line);
    }
}

fn limit(resource: Resource, value: Option<u64>) -> Rlimit {
    let before = getrlimit(resource);
    setrlimit(resource, Rlimit { current: value.or(before.maximum), maximum: before.maximum }).unwrap();
    before
}

fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").unwrap().count() as u64
}

/// No segment, no journal and no snapshot can be opened.
async fn no_more_files(root: &Path) {
    let bench = Bench::open(limited(root, CAPACITY)).await;
    bench.store(&pages(0..1000)).await;
    let segments = stat(root).segments;
    let before = limit(Resource::Nofile, Some(3));
    // Far more than its segments hold: it goes on by eviction, through several journals' worth of records.
    in_time("storing", bench.store(&pages(10_000..16_000))).await;
    bench.load_all(&pages(15_900..16_000)).await;
    assert!(bench.store.stat().evicted_pages > 4000);
    // Another store of this process is told what it lacks.
    setrlimit(Resource::Nofile, before).unwrap();
    let engine = pread();
    limit(Resource::Nofile, Some(3));
    let error = PageStore::open(limited(root, CAPACITY), vec![engine]).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{text}");
    assert!(text.contains("ulimit -n") && text.contains(root.to_str().unwrap()), "{text}");
    assert_eq!(bench.store.stat().breaker_opened, 0, "the disk is not to blame");
    // Nothing is lost, and it grows again.
    setrlimit(Resource::Nofile, before).unwrap();
    assert_eq!(stat(root).segments, segments);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    bench.load_all(&pages(15_900..16_000)).await;
    bench.store(&pages(20_000..24_000)).await;
    assert!(stat(root).segments > segments);
    let kept = bench.store.stat().pages;
    let files = open_files();
    bench.close().await;
    say(&format!("FIGURES {segments} segments while no file could be opened, {files} files open at the end"));
    let bench = Bench::open(limited(root, CAPACITY)).await;
    assert_eq!(bench.store.stat().pages, kept);
    bench.load_all(&pages(23_900..24_000)).await;
    bench.close().await;
    fixture::verify(root);
}

/// No file may grow, the journal neither: what a full disk does, without one.
async fn no_longer_files(root: &Path) {
    let bench = Bench::open(limited(root, CAPACITY)).await;
    bench.store(&pages(0..1000)).await;
    let journal = fixture::files(root, "journal-").pop().unwrap();
    let length = fs::metadata(&journal).unwrap().len();
    // Into the middle of a record of the next batch: an append is cut short by it.
    let before = limit(Resource::Fsize, Some(length + 100));
    for round in 0..5 {
        let all = pages(10_000 + round * 100..10_100 + round * 100);
        let outcomes = in_time("storing", bench.try_store(&all, false)).await;
        let refused = |outcome: &Outcome| outcome.error().is_some_and(|e| e.kind() == ErrorKind::NoSpace);
        assert!(outcomes.iter().all(|outcome| outcome.is_done() || refused(outcome)), "{outcomes:?}");
        assert!(outcomes.iter().any(refused));
        bench.load_all(&pages(0..1000)).await;
    }
    assert_eq!(fs::metadata(&journal).unwrap().len() % 64, 0, "half an append is taken back");
    assert!(bench.store.delete(&fixture::keys(&pages(0..3))).await.is_err());
    bench.load_all(&pages(0..3)).await;
    assert_eq!(bench.store.stat().breaker_opened, 0);
    // Opened again under the limit there is no more and no less.
    let kept = bench.store.stat().pages;
    drop(bench.store.close().await);
    drop(bench);
    let bench = Bench::open(limited(root, CAPACITY)).await;
    assert_eq!(bench.store.stat().pages, kept);
    bench.load_all(&pages(0..1000)).await;
    setrlimit(Resource::Fsize, before).unwrap();
    in_time("stores go on", async {
        while !bench.try_store(&pages(20_000..20_100), false).await.iter().all(Outcome::is_done) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    bench.load_all(&pages(20_000..20_100)).await;
    bench.load_all(&pages(0..1000)).await;
    bench.close().await;
    fixture::verify(root);
}

#[test]
fn a_process_without_files_to_open() {
    let directory = tempfile::tempdir().unwrap();
    run("files", directory.path());
}

#[test]
fn a_process_whose_files_may_not_grow() {
    let directory = tempfile::tempdir().unwrap();
    run("lengths", directory.path());
}
