//! A root that is tested, from outside: what it takes, what is in it.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hicache_page_store::inspect;
use serde_json::Value;

use crate::{hicache, json, number, say};

/// Blocks of every file and directory under a root, by inode: a segment that is renamed from one set to another while
/// we look counts once.
fn look(path: &Path, files: &mut HashMap<u64, (PathBuf, u64)>) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    files.insert(metadata.ino(), (path.to_owned(), metadata.blocks() * 512));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        look(&entry.path(), files);
    }
}

/// Physical bytes of everything under `root` that was there at one moment: `du`, while others make, move and remove
/// files. What is gone when it is looked at again, or has shrunk, counts as little.
pub fn taken_at_once(root: &Path, limit: u64) -> u64 {
    let mut first = HashMap::new();
    look(root, &mut first);
    let sum: u64 = first.values().map(|(_, bytes)| bytes).sum();
    if sum <= limit {
        return sum;
    }
    // Over the limit, or no picture of one moment: files that were removed before others were made.
    let mut second = HashMap::new();
    look(root, &mut second);
    let both = first.iter().filter_map(|(inode, (_, bytes))| Some((*bytes).min(second.get(inode)?.1)));
    both.sum()
}

/// Looks at a root all the time; its capacity holds for the sum of all that use it.
#[derive(Debug)]
pub struct Watch {
    most: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
    capacity: u64,
}

impl Watch {
    /// Begins to look.
    pub fn new(root: &Path, capacity: u64) -> Self {
        let (most, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, stop, root) = (Arc::clone(&most), Arc::clone(&ended), root.to_owned());
        let thread = std::thread::spawn(move || {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                seen.fetch_max(taken_at_once(&root, capacity), Ordering::Relaxed);
                looks += 1;
                std::thread::sleep(Duration::from_millis(3));
            }
            looks
        });
        Self { most, ended, thread: Some(thread), capacity }
    }

    /// Ends, and refuses a root that took more than it may.
    pub fn end(mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let looks = self.thread.take().map_or(0, |thread| thread.join().unwrap_or(0));
        let (most, capacity) = (self.most.load(Ordering::Relaxed), self.capacity);
        say(&format!("at most {most} of {capacity} bytes were taken, in {looks} looks"));
        assert!(most <= capacity, "{most} bytes were taken of {capacity}");
        assert!(looks > 2, "only {looks} looks");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// The directories of the sets under a root, by namespace directory.
pub fn sets(root: &Path) -> HashMap<PathBuf, Vec<PathBuf>> {
    let mut found: HashMap<PathBuf, Vec<PathBuf>> = HashMap::new();
    let below = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    for set in below(root).flat_map(|namespace| below(&namespace).collect::<Vec<_>>()) {
        let name = set.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("set-") && set.is_dir() {
            found.entry(set.parent().unwrap_or(root).to_owned()).or_default().push(set);
        }
    }
    found
}

/// Directories of sets that no process holds.
pub fn dead_sets(root: &Path) -> Vec<PathBuf> {
    let free = |set: &PathBuf| {
        let lock = fs::OpenOptions::new().read(true).write(true).open(set.join("LOCK"));
        lock.is_ok_and(|lock| lock.try_lock().is_ok())
    };
    sets(root).into_values().flatten().filter(free).collect()
}

/// `hicache verify`: no page whose bytes are not those that were stored. Answers how many good ones there are.
pub fn verify(root: &Path) -> u64 {
    let (verified, code) = json(hicache().args(["verify", "--json"]).arg(root));
    assert_eq!(code, Some(0), "{verified}");
    assert_eq!(number(&verified, "corrupt_pages"), 0, "{verified}");
    number(&verified, "good_pages")
}

/// Slots, and pages, of all sets under a root.
pub fn slots_and_pages(root: &Path) -> (u64, u64) {
    let stats = inspect::sets(root).expect("the root is a store");
    let stats = stats.iter().map(inspect::SetView::stat);
    stats.fold((0, 0), |(slots, pages), stat| (slots + stat.slots, pages + stat.pages))
}

/// How many versions of a census are there.
pub fn present(census: &Value) -> usize {
    let there = |field: &str| {
        census[field]
            .as_array()
            .map_or(0, |versions| versions.iter().filter(|version| **version != -1).count())
    };
    there("owned") + there("shared")
}
