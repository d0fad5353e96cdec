//! `hicache verify --repair`, as an operator runs it on a store that was damaged.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hicache")).env_clear().args(arguments).output().unwrap();
    let text = |raw| String::from_utf8(raw).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A store of a small made-up workload, closed.
struct Store {
    directory: TempDir,
    pages: u64,
}

impl Store {
    fn new() -> Self {
        let mut store = Self { directory: tempfile::tempdir().unwrap(), pages: 0 };
        let replayed = store.replay();
        store.pages = replayed["unique_pages"].as_u64().unwrap();
        store
    }

    fn path(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    fn replay(&self) -> Value {
        let (code, text, error) = run(&[
            "replay",
            "--json",
            "--requests",
            "40",
            "--page-bytes",
            "4KiB",
            "--segment-bytes",
            "1MiB",
            "--dir",
            self.path(),
        ]);
        assert_eq!(code, 0, "{error}");
        serde_json::from_str(&text).unwrap()
    }

    fn json(&self, arguments: &[&str], expected: i32) -> Value {
        let (code, text, error) = run(&[arguments, &["--json", self.path()]].concat());
        assert_eq!(code, expected, "{text}{error}");
        serde_json::from_str(&text).unwrap()
    }

    fn repair(&self, expected: i32) -> Value {
        self.json(&["verify", "--repair"], expected)
    }

    fn namespace(&self) -> PathBuf {
        let mut entries = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path.is_dir()).unwrap()
    }

    fn set(&self) -> PathBuf {
        self.namespace().join("set-0000")
    }

    /// The first file of the set whose name begins so.
    fn file(&self, prefix: &str) -> PathBuf {
        let mut names: Vec<PathBuf> =
            fs::read_dir(self.set()).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.into_iter().find(|path| name_of(path).starts_with(prefix)).unwrap()
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

fn names(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|path| name_of(Path::new(path.as_str().unwrap()))).collect()
}

#[test]
fn a_good_store_is_left_as_it_is() {
    let store = Store::new();
    let listing = || {
        let mut files: Vec<_> = fs::read_dir(store.set())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (name_of(&entry.path()), entry.metadata().unwrap().modified().unwrap()))
            .filter(|(name, _)| name != "LOCK")
            .collect();
        files.sort();
        files
    };
    let before = listing();
    let repaired = store.repair(0);
    assert_eq!(listing(), before);
    let set = &repaired["sets"][0];
    assert_eq!((&set["changed"], &set["good_pages"]), (&false.into(), &store.pages.into()), "{repaired}");
    let (code, text, _) = run(&["verify", "--repair", store.path()]);
    assert!(code == 0 && text.contains("nothing to mend"), "{text}");
}

#[test]
fn corrupt_pages_are_dropped_and_named() {
    let store = Store::new();
    flip(&store.file("seg-"), 1000);
    flip(&store.file("seg-"), 3 * 4096);
    let corrupt = store.json(&["verify"], 1);
    let example = corrupt["examples"][0].as_str().unwrap();
    let (code, text, _) = {
        let copy = tempfile::tempdir().unwrap();
        let status = Command::new("cp").arg("-r").arg(store.namespace()).arg(copy.path()).status().unwrap();
        assert!(status.success());
        run(&["verify", "--repair", copy.path().to_str().unwrap()])
    };
    assert!(code == 0 && text.contains("2 pages went"), "{text}");
    let repaired = store.repair(0);
    let dropped = repaired["sets"][0]["dropped_pages"].as_array().unwrap();
    assert_eq!(dropped.len(), 2);
    assert!(dropped.iter().any(|page| example.contains(page["name"].as_str().unwrap())), "{repaired}");
    for page in dropped {
        assert!(text.contains(page["name"].as_str().unwrap()), "{text}");
    }
    assert_eq!(store.json(&["verify"], 0)["good_pages"], store.pages - 2);
    assert_eq!(store.repair(0)["sets"][0]["changed"], false);
    // The next replay finds them missing, not corrupt, and stores them again.
    let replayed = store.replay();
    assert_eq!((&replayed["corrupt_pages"], &replayed["bad_records"]), (&0.into(), &0.into()));
    assert_eq!(store.json(&["verify"], 0)["good_pages"], store.pages);
}

#[test]
fn torn_metadata_and_leftovers_go_and_strangers_stay() {
    let store = Store::new();
    let set = store.set();
    let journal = store.file("journal-");
    let torn = [fs::read(&journal).unwrap(), vec![7; 100]].concat();
    fs::write(&journal, torn).unwrap();
    fs::write(set.join("snapshot.new"), "half").unwrap();
    fs::write(set.join("names.new"), "half").unwrap();
    fs::write(set.join("seg-4096-00777"), "").unwrap();
    fs::write(set.join("journal-0000000000"), "an old one").unwrap();
    fs::write(set.join("notes.txt"), "of a person").unwrap();
    fs::write(set.join("names"), [0; 33]).unwrap();
    let stat = store.json(&["stat"], 0);
    assert!(stat["bad_records"].as_u64().unwrap() > 0, "{stat}");
    let repaired = store.repair(0);
    let mended = &repaired["sets"][0];
    let removed = names(&mended["removed"]);
    for gone in ["snapshot.new", "names.new", "seg-4096-00777", "journal-0000000000", &name_of(&journal)] {
        assert!(removed.contains(&gone.to_owned()) && !set.join(gone).exists(), "{gone}: {repaired}");
    }
    assert_eq!(names(&mended["unknown"]), ["notes.txt"]);
    assert!(set.join("notes.txt").exists());
    assert_eq!((&mended["bad_name_bytes"], &mended["good_pages"]), (&33.into(), &store.pages.into()));
    let stat = store.json(&["stat"], 0);
    assert_eq!((&stat["bad_records"], &stat["pages"]), (&0.into(), &store.pages.into()));
    assert_eq!(store.repair(0)["sets"][0]["changed"], false);
    assert_eq!(store.replay()["stored_pages"], 0);
}

#[test]
fn a_manifest_is_put_back_or_asked_for() {
    let store = Store::new();
    let manifest = store.namespace().join("MANIFEST");
    let good = fs::read(&manifest).unwrap();
    // Half of it: verify says how to mend, repair can't, a server does.
    fs::write(&manifest, &good[..50]).unwrap();
    let (code, _, error) = run(&["verify", store.path()]);
    assert!(code == 2 && error.contains("MANIFEST") && error.contains("writes it anew"), "{error}");
    flip(&store.file("seg-"), 5);
    let repaired = store.repair(1);
    assert!(repaired["left"][0].as_str().unwrap().contains("writes it anew"), "{repaired}");
    assert_eq!(repaired["sets"][0]["dropped_pages"].as_array().unwrap().len(), 1);
    let replayed = store.replay();
    assert_eq!((&replayed["bad_manifests"], &replayed["stored_pages"]), (&1.into(), &1.into()));
    assert_eq!(fs::read(&manifest).unwrap(), good);
    // A whole copy that was never put in its place.
    fs::rename(&manifest, manifest.with_file_name(".MANIFEST-1-0")).unwrap();
    let repaired = store.repair(0);
    assert_eq!(names(&repaired["restored_manifests"]), ["MANIFEST"]);
    assert_eq!(fs::read(&manifest).unwrap(), good);
    // A newer format is nobody's to mend.
    let newer = String::from_utf8(good).unwrap().replace("\"format_version\": 1", "\"format_version\": 9");
    fs::write(&manifest, newer).unwrap();
    flip(&store.file("seg-"), 5);
    let repaired = store.repair(1);
    assert!(repaired["sets"].as_array().unwrap().is_empty(), "{repaired}");
    assert!(repaired["left"][0].as_str().unwrap().contains("format 9"), "{repaired}");
}

#[test]
fn a_set_in_use_is_left_alone() {
    let store = Store::new();
    flip(&store.file("seg-"), 1000);
    let lock = fs::File::options().write(true).open(store.set().join("LOCK")).unwrap();
    lock.lock().unwrap();
    let repaired = store.repair(0);
    assert_eq!(names(&repaired["in_use"]), ["set-0000"]);
    assert!(repaired["sets"].as_array().unwrap().is_empty());
    let (code, text, _) = run(&["verify", "--repair", store.path()]);
    assert!(code == 0 && text.contains("in use by a running process"), "{text}");
    assert_eq!(store.json(&["verify"], 1)["corrupt_pages"], 1);
    drop(lock);
    assert_eq!(store.repair(0)["sets"][0]["changed"], true);
    store.json(&["verify"], 0);
}

#[test]
fn what_is_no_store_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    let (code, _, error) = run(&["verify", "--repair", empty.path().to_str().unwrap()]);
    assert!(code == 2 && error.contains("no page store"), "{error}");
    let (code, _, error) = run(&["verify", "--repair", "/nonexistent"]);
    assert!(code == 2 && error.contains("/nonexistent"), "{error}");
}
