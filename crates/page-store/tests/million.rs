//! A million pages: how long opening takes, what a page costs in memory, and how fast `exists` answers. Measured in
//! processes of their own, so that nothing else is counted.

mod fixture;

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use fixture::{Bench, Page, say};
use hicache_core::{
    Direction, Engine, EngineCapabilities, EngineFile, Extent, ExtentsDone, OwnerId, PageKey, Region,
    Registration, Result, Storage, Transfer,
};
use hicache_page_store::{PageStore, PageStoreConfig};
use hicache_testkit::{ThreadEngine, numbered_key};

const PAGES: u64 = 1_000_000;
/// Free bytes that the temporary folder must have: slots of 4 KiB, and the index.
const ROOM_BYTES: u64 = 5 << 30;
/// Files of the directory that is scanned for comparison.
const FILES: u64 = 20_000;
const ASKED: u64 = 10_000;

/// Says that everything was moved, and moves nothing.
struct Stub {
    owner: OwnerId,
    capabilities: EngineCapabilities,
}

impl fmt::Debug for Stub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stub")
    }
}

#[async_trait]
impl Engine for Stub {
    fn capabilities(&self) -> &EngineCapabilities {
        &self.capabilities
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        Ok(Registration::new(self.owner, Arc::clone(region), Box::new(())))
    }

    fn attach(&self, file: Arc<File>, _: &Path) -> Result<EngineFile> {
        Ok(EngineFile::new(self.owner, file, Box::new(())))
    }

    fn submit(&self, _: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        let outcomes = extents.iter().map(|extent| Ok(extent.memory.bytes() as u64)).collect();
        Transfer::ready(ExtentsDone::new(outcomes, extents.into_iter().map(Some).collect()))
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

async fn open(root: PathBuf) -> Arc<PageStore> {
    let capabilities = ThreadEngine::new().unwrap().capabilities().clone();
    let engine = Stub { owner: OwnerId::new(), capabilities };
    let mut config = PageStoreConfig::new([root], fixture::namespace());
    config.capacity_bytes = Some(6 << 30);
    PageStore::open(config, vec![Arc::new(engine)]).await.unwrap()
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// What the child processes do: `build ROOT` stores the pages and waits to be killed; `open ROOT` opens and measures.
#[test]
#[ignore = "a part of the others, which run it in processes of its own"]
fn child() {
    let mut line = String::new();
    if std::io::stdin().is_terminal() || std::io::stdin().read_line(&mut line).unwrap() == 0 {
        return;
    }
    let (task, root) = line.trim().split_once(' ').unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let root = PathBuf::from(root);
    match task {
        "build" => runtime.block_on(build(root)),
        _ => runtime.block_on(measure(root)),
    }
}

async fn build(root: PathBuf) {
    let bench = Bench::new(open(root).await, 4000, 64);
    let all: Vec<_> = (0..PAGES).map(|number| Page { bytes: 64, ..fixture::page(number) }).collect();
    bench.store(&all).await;
    assert_eq!(bench.store.stat().pages, PAGES);
    say("FIGURES built");
    // Killed here, with a journal and no last words.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

async fn measure(root: PathBuf) {
    let before = resident_bytes();
    let begun = Instant::now();
    let store = open(root).await;
    let opened = begun.elapsed();
    let bytes = resident_bytes() - before;
    assert_eq!(store.stat().pages, PAGES);
    let asked: Vec<PageKey> = (0..ASKED).map(|i| numbered_key(i * 7919 % PAGES)).collect();
    // The fastest: whatever else the machine does only adds.
    let mut times: Vec<_> = (0..31)
        .map(|_| {
            let begun = Instant::now();
            let there = store.exists_now(&asked).unwrap().unwrap();
            assert!(there.into_iter().all(|there| there));
            begun.elapsed()
        })
        .collect();
    times.sort();
    say(&format!("FIGURES {} {} {}", opened.as_micros(), bytes, times[0].as_micros()));
    store.close().await.unwrap();
}

/// This test binary again, told what to do.
fn start(task: &str, root: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{task} {}", root.display()).unwrap();
    child
}

/// Its figures, and the rest of its output.
fn figures(child: &mut Child) -> (Vec<u64>, impl BufRead + use<>) {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    loop {
        let mut line = String::new();
        assert!(output.read_line(&mut line).unwrap() > 0, "the child process failed");
        if let Some((_, figures)) = line.trim().split_once("FIGURES ") {
            return (figures.split(' ').filter_map(|figure| figure.parse().ok()).collect(), output);
        }
    }
}

/// What a directory scan with a stat of each file takes, for so many files as pages; scaled up.
fn scan(directory: &Path) -> Duration {
    fs::create_dir(directory).unwrap();
    for number in 0..FILES {
        File::create(directory.join(number.to_string())).unwrap();
    }
    let begun = Instant::now();
    let entries = fs::read_dir(directory).unwrap();
    let found = entries.filter(|entry| entry.as_ref().unwrap().metadata().unwrap().is_file()).count() as u64;
    assert_eq!(found, FILES);
    begun.elapsed() * (PAGES / FILES) as u32
}

#[test]
fn a_million_pages() {
    let directory = tempfile::tempdir().unwrap();
    let disk = rustix::fs::statvfs(directory.path()).unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    assert!(
        free >= ROOM_BYTES,
        "{} has {free} bytes left where {ROOM_BYTES} are needed; free some, or set TMPDIR",
        directory.path().display()
    );
    let root = directory.path().join("root");
    let begun = Instant::now();
    let mut building = start("build", &root);
    drop(figures(&mut building));
    building.kill().unwrap();
    building.wait().unwrap();
    say(&format!("built in {:.1} s", begun.elapsed().as_secs_f64()));
    for (what, after) in
        [("after a kill, from journals", "killed"), ("after a close, from a snapshot", "closed")]
    {
        let mut child = start("open", &root);
        let (measured, mut rest) = figures(&mut child);
        let [opened, bytes, asked] = measured[..] else { panic!("no figures") };
        rest.read_to_string(&mut String::new()).unwrap();
        assert!(child.wait().unwrap().success(), "{after}");
        let a_page = bytes as f64 / PAGES as f64;
        say(&format!(
            "{what}: opened in {:.0} ms, {a_page:.1} bytes a page, {ASKED} keys asked in {:.2} ms",
            opened as f64 / 1e3,
            asked as f64 / 1e3
        ));
        // The bars of the issue, for a build that somebody would measure.
        if !cfg!(debug_assertions) {
            assert!(opened < 2_000_000, "opening took {opened} µs");
            assert!(a_page <= 100.0, "{a_page} bytes a page");
            assert!(asked < 5_000, "asking took {asked} µs");
        }
    }
    let scanned = scan(&directory.path().join("files"));
    say(&format!(
        "scan and stat of {FILES} files, times {}: {:.0} ms",
        PAGES / FILES,
        scanned.as_secs_f64() * 1e3
    ));
}
