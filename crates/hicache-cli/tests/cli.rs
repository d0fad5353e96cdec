//! The `hicache` binary as its users run it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use hicache_cli::workload::{Request, Synthetic, SyntheticConfig, summarize};
use serde_json::Value;
use tempfile::TempDir;

/// The binary, with nothing of this machine's environment that means something to it.
fn hicache(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hicache"));
    command.env_clear().args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    hicache(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one object on standard output of a run that ended with `expected`.
fn json(arguments: &[&str], expected: i32) -> Value {
    let output = run(arguments);
    assert_eq!(code(&output), expected, "{arguments:?}: {}", stderr(&output));
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// A run that was refused: nothing on standard output, and the reason.
fn refused(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
    assert_eq!(stdout(&output), "");
    stderr(&output)
}

/// A store of the first 40 requests of the synthetic workload.
struct Store {
    directory: TempDir,
    replayed: Value,
}

const REQUESTS: u64 = 40;
const PAGE_BYTES: u64 = 4096;

impl Store {
    fn new(more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Self { directory, replayed: Value::Null };
        let replayed = store.replay(more, 0);
        Self { replayed, ..store }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn text(&self) -> &str {
        self.path().to_str().unwrap()
    }

    fn replay(&self, more: &[&str], expected: i32) -> Value {
        let small =
            ["replay", "--json", "--requests", "40", "--page-bytes", "4KiB", "--segment-bytes", "1MiB"];
        json(&[&small[..], &["--dir", self.text()], more].concat(), expected)
    }

    fn segments(&self) -> Vec<PathBuf> {
        let sets = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let sets = sets.filter(|path| path.is_dir()).map(|namespace| namespace.join("set-0000"));
        let files = sets.flat_map(|set| fs::read_dir(set).unwrap().map(|entry| entry.unwrap().path()));
        files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("seg-")).collect()
    }

    /// Flips one bit of the first page of the first segment that holds one.
    fn damage(&self) {
        let segment = self.segments().into_iter().min().unwrap();
        let file = File::options().read(true).write(true).open(segment).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 1000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 1000).unwrap();
    }
}

fn synthetic(requests: u64) -> Vec<Request> {
    Synthetic::new(SyntheticConfig { requests, ..SyntheticConfig::default() }).unwrap().collect()
}

#[test]
fn a_replay_finds_exactly_what_is_known() {
    let expected = summarize(&synthetic(REQUESTS));
    let replayed = Store::new(&["--policies"]).replayed;
    let numbers = [
        ("requests", expected.requests),
        ("pages", expected.pages),
        ("unique_pages", expected.unique_pages),
        ("expected_hit_pages", expected.hit_pages),
        ("hit_pages", expected.hit_pages),
        ("stored_pages", expected.unique_pages),
        ("present_pages", 0),
        ("evicted_pages", 0),
        ("corrupt_pages", 0),
        ("undetected_corrupt_pages", 0),
        ("failed_pages", 0),
        ("bytes_read", expected.hit_pages * PAGE_BYTES),
        ("bytes_written", expected.unique_pages * PAGE_BYTES),
        ("page_bytes", PAGE_BYTES),
        ("concurrency", 1),
    ];
    for (field, number) in numbers {
        assert_eq!(replayed[field], number, "{field}");
    }
    let restart = &replayed["restart"];
    for (field, number) in [("pages", expected.unique_pages), ("hit_pages", expected.unique_pages)] {
        assert_eq!(restart[field], number, "{field}");
    }
    for field in ["corrupt_pages", "missing_pages", "failed_pages"] {
        assert_eq!(restart[field], 0, "{field}");
    }
    for policy in ["lru", "lru-from-end", "arc", "s3-fifo", "optimum"] {
        assert_eq!(replayed["policies"][policy]["hit_pages"], expected.hit_pages, "{policy}");
    }
    assert!(replayed["slots"].as_u64().unwrap() >= expected.unique_pages);
    assert!(replayed["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
    for field in ["seconds", "cpu_seconds"] {
        assert!(replayed[field].as_f64().unwrap() > 0.0, "{field}");
    }
    assert!(restart["open_seconds"].as_f64().unwrap() > 0.0);
    assert!(replayed["backend"].as_str().unwrap().starts_with("posix-"));
}

#[test]
fn what_was_stored_before_is_found() {
    let store = Store::new(&["--no-restart"]);
    assert_eq!(store.replayed["restart"], Value::Null);
    let again = store.replay(&[], 0);
    assert_eq!(again["hit_pages"], again["pages"]);
    assert_eq!(again["stored_pages"], 0);
}

#[test]
fn requests_at_the_same_time_lose_nothing() {
    for backend in ["auto", "posix-pread", "memory"] {
        let replayed = Store::new(&["--concurrency", "5", "--backend", backend]).replayed;
        assert_eq!(replayed["stored_pages"], replayed["unique_pages"], "{backend}");
        for field in ["corrupt_pages", "failed_pages"] {
            assert_eq!(replayed[field], 0, "{backend}: {field}");
        }
        let kept = if backend == "memory" { &Value::Null } else { &replayed["unique_pages"] };
        assert_eq!(&replayed["restart"]["hit_pages"], kept, "{backend}");
    }
}

#[test]
fn a_small_capacity_evicts() {
    let store = Store::new(&["--capacity", "700KiB"]);
    let replayed = &store.replayed;
    let number = |field: &str| replayed[field].as_u64().unwrap();
    assert!(number("evicted_pages") > 0);
    assert!(number("hit_pages") < number("expected_hit_pages"));
    assert!(number("slots") < number("unique_pages"));
    assert!(number("physical_bytes") <= 700 << 10, "{}", number("physical_bytes"));
    assert_eq!(number("corrupt_pages") + number("failed_pages"), 0);
    let restart = |field: &str| replayed["restart"][field].as_u64().unwrap();
    assert_eq!(restart("hit_pages"), number("stored_pages") - number("evicted_pages"));
    assert_eq!(restart("hit_pages") + restart("missing_pages"), number("unique_pages"));
}

#[test]
fn without_a_directory_nothing_stays() {
    let replayed = json(&["replay", "--json", "--requests", "3", "--page-bytes", "4096"], 0);
    let directory = replayed["directories"][0].as_str().unwrap();
    assert!(directory.starts_with("/tmp/hicache-replay-"));
    assert!(!Path::new(directory).exists());
}

#[test]
fn a_trace_is_replayed_and_a_broken_line_named() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.jsonl");
    let line = |ids: &str| {
        format!(r#"{{"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": [{ids}]}}"#)
    };
    fs::write(&trace, [line("1, 2"), line("1, 2, 3"), line("")].join("\n")).unwrap();
    let (trace, kept) = (trace.to_str().unwrap(), directory.path().join("store"));
    let arguments =
        ["replay", "--json", "--page-bytes", "4096", "--dir", kept.to_str().unwrap(), "--trace", trace];
    let replayed = json(&[&arguments[..], &["--realtime"]].concat(), 0);
    assert_eq!((&replayed["hit_pages"], &replayed["unique_pages"]), (&2.into(), &3.into()));

    fs::remove_dir_all(&kept).unwrap();
    fs::write(trace, [line("1, 2"), "{\"timestamp\": 1}".into(), line("1")].join("\n")).unwrap();
    assert!(refused(&arguments).contains("trace.jsonl, line 2: missing field"));
    assert!(!kept.exists(), "a broken trace opens nothing");
    assert!(refused(&["replay", "--trace", "/nonexistent"]).contains("/nonexistent"));
}

#[test]
fn bad_input_is_refused_by_name() {
    let small = refused(&["replay", "--capacity", "512KiB", "--page-bytes", "65536"]);
    assert!(small.contains("capacity_bytes") && small.contains("16 pages"), "{small}");
    let cases: [(&[&str], &str); 11] = [
        (&["replay", "--frob"], "--frob"),
        (&["frob"], "frob"),
        (&[], "Usage"),
        (&["replay", "--page-bytes", "0"], "page_bytes"),
        (&["replay", "--io", "dirct"], "direct, buffered, auto"),
        (&["replay", "--backend", "posix-urin"], "posix-uring"),
        (&["replay", "--concurrency", "0"], "concurrency"),
        (&["replay", "--synthetic", "--trace", "x"], "--trace"),
        (&["replay", "--check-acknowledged", "x"], "--dir"),
        (&["config", "explain", "--set", "posix_uring.dept=3"], "posix_uring.depth"),
        (&["config", "explain", "--set", "io"], "FIELD=VALUE"),
    ];
    for (arguments, word) in cases {
        let message = refused(arguments);
        assert!(message.contains(word), "{arguments:?}: {message}");
    }
    for command in ["verify", "stat", "list"] {
        assert!(refused(&[command, "/nonexistent"]).contains("/nonexistent"));
        let empty = tempfile::tempdir().unwrap();
        assert!(refused(&[command, empty.path().to_str().unwrap()]).contains("no page store"));
    }
}

#[test]
fn the_exit_codes_are_in_the_help() {
    let help = run(&["--help"]);
    assert_eq!(code(&help), 0);
    assert!(stdout(&help).contains("Exit codes:"));
    assert_eq!(code(&run(&["--version"])), 0);
}

#[test]
fn verify_names_what_is_corrupt() {
    let store = Store::new(&[]);
    let good = json(&["verify", "--json", store.text()], 0);
    assert_eq!(good["good_pages"], store.replayed["unique_pages"]);
    assert_eq!((&good["corrupt_pages"], &good["superseded_pages"]), (&0.into(), &0.into()));
    assert_eq!(good["read_bytes"].as_u64().unwrap(), good["good_pages"].as_u64().unwrap() * PAGE_BYTES);
    assert_eq!(good["sets"][0]["namespace"]["model"], "replay");

    store.damage();
    let bad = json(&["verify", "--json", store.text()], 1);
    assert_eq!(bad["corrupt_pages"], 1);
    assert_eq!(bad["good_pages"].as_u64().unwrap() + 1, good["good_pages"].as_u64().unwrap());
    let example = bad["examples"][0].as_str().unwrap();
    let listed = stdout(&run(&["list", store.text()]));
    let name = listed.lines().filter_map(|line| line.rsplit(' ').next()).find(|name| example.contains(name));
    assert!(name.is_some(), "{example}");
    let shown = run(&["verify", store.text()]);
    assert_eq!(code(&shown), 1);
    assert!(stdout(&shown).contains(name.unwrap()));

    // A reader of the store gets a miss for it, never the wrong bytes; the replay stores it again.
    let replayed = store.replay(&[], 1);
    assert_eq!((&replayed["corrupt_pages"], &replayed["undetected_corrupt_pages"]), (&1.into(), &0.into()));
    assert_eq!(replayed["restart"]["missing_pages"], 0);
    assert!(replayed["examples"][0].as_str().unwrap().contains(name.unwrap()));
    json(&["verify", "--json", store.text()], 0);
}

#[test]
fn stat_and_list_show_what_is_there() {
    let store = Store::new(&[]);
    let pages = store.replayed["unique_pages"].as_u64().unwrap();
    let stat = json(&["stat", "--json", store.text()], 0);
    assert_eq!(stat["pages"], pages);
    assert_eq!(stat["page_bytes"], pages * PAGE_BYTES);
    assert_eq!(stat["sets"].as_array().unwrap().len(), 1);
    assert_eq!(stat["segments"].as_u64().unwrap() as usize, store.segments().len());
    assert!(stdout(&run(&["stat", store.text()])).contains("replay"));

    let all: Vec<Value> = stdout(&run(&["list", "--json", store.text()]))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(all.len() as u64, pages);
    for page in &all {
        assert_eq!((&page["pool"], &page["bytes"]), (&"kv".into(), &PAGE_BYTES.into()));
        assert_eq!(page["name"].as_str().unwrap().len(), 64);
        assert_eq!(page["namespace"], stat["sets"][0]["fingerprint"]);
    }
    let prefix = &all[0]["name"].as_str().unwrap()[..1];
    let with_prefix = all.iter().filter(|page| page["name"].as_str().unwrap().starts_with(prefix)).count();
    let listed = stdout(&run(&["list", store.text(), "--prefix", prefix]));
    assert_eq!(listed.lines().count(), with_prefix);
    assert!((1..all.len()).contains(&with_prefix));
    assert_eq!(stdout(&run(&["list", store.text(), "--prefix", "x"])), "");
}

#[test]
fn probe_says_what_works() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().to_str().unwrap();
    let probed = json(&["probe", "--json", "--dir", dir], 0);
    let reports = probed["directories"][0]["backends"].as_array().unwrap();
    let names: Vec<&str> = reports.iter().map(|report| report["backend"].as_str().unwrap()).collect();
    let built = hicache::registry::KNOWN.iter().filter(|known| known.built).map(|known| known.name);
    assert!(names.iter().copied().eq(built), "{names:?}");
    assert!(["posix-uring", "posix-pread", "tiered", "memory"].iter().all(|name| names.contains(name)));
    assert!(reports.iter().all(|report| !report["reason"].as_str().unwrap().is_empty()));
    assert!(names.contains(&probed["selected"].as_str().unwrap()));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "a probe leaves something behind");
    let shown = stdout(&run(&["probe", "--dir", dir]));
    assert!(shown.contains("Would be used: posix-") && shown.contains("verdict"), "{shown}");
}

#[test]
fn config_explain_shows_origins() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hicache.toml");
    fs::write(&file, "io = \"buffered\"\n[posix_uring]\ndepth = 8\n").unwrap();
    let arguments =
        ["config", "explain", "--json", "--config", file.to_str().unwrap(), "--set", "posix_uring.depth=16"];
    let output = hicache(&arguments).env("HICACHE_BACKEND", "memory").output().unwrap();
    let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
    let field = |name: &str| {
        explained["fields"].as_array().unwrap().iter().find(|field| field["field"] == name).unwrap()
    };
    assert_eq!(field("io")["value"], "buffered");
    assert_eq!(field("io")["origin"]["layer"], "file");
    assert_eq!(
        (&field("posix_uring.depth")["value"], &field("posix_uring.depth")["origin"]["layer"]),
        (&16.into(), &"explicit".into())
    );
    assert_eq!(field("backend")["origin"]["name"], "HICACHE_BACKEND");
    assert_eq!(field("durability")["origin"]["layer"], "default");
    let shown = stdout(&run(&["config", "explain"]));
    assert!(shown.contains("posix_uring.depth") && shown.contains("HICACHE_POSIX_URING_DEPTH"));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let nobody_reads = || std::io::pipe().unwrap().1;
    let store = Store::new(&[]);
    for arguments in [
        &["list", store.text()][..],
        &["config", "explain"],
        &["verify", store.text(), "--json"],
        &["--help"],
    ] {
        let output = hicache(arguments).stdout(nobody_reads()).output().unwrap();
        assert_eq!((code(&output), stderr(&output)), (0, String::new()), "{arguments:?}");
    }
    // What was found out stays the exit code.
    store.damage();
    let status = hicache(&["verify", store.text()]).stdout(nobody_reads()).status().unwrap();
    assert_eq!(status.code(), Some(1));
    // Standard error closed as well: still no panic (which would be 101).
    for (arguments, expected) in [(&["frob"][..], 2), (&["verify", "/nonexistent"], 2)] {
        let status = hicache(arguments).stdout(nobody_reads()).stderr(nobody_reads()).status().unwrap();
        assert_eq!(status.code(), Some(expected));
    }
    // A disk that is full is an error.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = hicache(&["stat", store.text()]).stdout(full).output().unwrap();
    assert_eq!(code(&output), 3, "{}", stderr(&output));
}

/// Waits until the file has grown by so many bytes.
fn wait_for(path: &Path, bytes: u64, child: &mut Child) {
    while fs::metadata(path).map_or(0, |file| file.len()) < bytes {
        assert!(child.try_wait().unwrap().is_none(), "the replay ended before it was killed");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let (store, file) = (directory.path().join("store"), directory.path().join("acknowledged"));
    let (store, path) = (store.to_str().unwrap(), file.to_str().unwrap());
    let common = ["replay", "--json", "--page-bytes", "16KiB", "--segment-bytes", "4MiB", "--dir", store];
    for seed in ["1", "2", "3"] {
        let before = fs::metadata(&file).map_or(0, |file| file.len());
        let arguments =
            [&common[..], &["--acknowledged", path, "--concurrency", "3", "--seed", seed]].concat();
        let mut child = hicache(&arguments).stdout(Stdio::null()).spawn().unwrap();
        wait_for(&file, before + 300 * 32, &mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        let checked = json(&[&common[..], &["--check-acknowledged", path]].concat(), 0);
        let acknowledged = checked["acknowledged"].as_u64().unwrap();
        assert!(acknowledged >= 300);
        assert_eq!(checked["present"], acknowledged);
        for field in ["missing", "corrupt", "failed"] {
            assert_eq!(checked[field], 0, "{field}");
        }
        json(&["verify", "--json", store], 0);
    }
    // What was never stored is missing, and that is wrong where nothing can have been evicted.
    fs::write(&file, [7; 32]).unwrap();
    let checked = json(&[&common[..], &["--check-acknowledged", path]].concat(), 1);
    assert_eq!((&checked["acknowledged"], &checked["missing"]), (&1.into(), &1.into()));
    let limited = json(&[&common[..], &["--check-acknowledged", path, "--capacity", "10GiB"]].concat(), 0);
    assert_eq!(limited["missing"], 1);
}

#[test]
fn an_interrupted_replay_closes_its_store() {
    let store = tempfile::tempdir().unwrap();
    let dir = store.path().join("store");
    let file = store.path().join("acknowledged");
    // At the pace of the workload, half an hour: it can only end by the signal.
    let (dir, path) = (dir.to_str().unwrap(), file.to_str().unwrap());
    let arguments = ["replay", "--realtime", "--page-bytes", "4096", "--dir", dir, "--acknowledged", path];
    let mut child = hicache(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&file, 32, &mut child);
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{text}");
    assert!(text.contains("interrupted"), "{text}");
}
