//! The recorded hour of production requests through the store, and its hit counts.

use std::path::Path;
use std::process::Command;

use hicache_tests::{disk_usage, hicache, json, number, say, trace};
use serde_json::Value;

/// Requests, pages and different pages of the trace, and the hits of a store that forgets nothing.
const REQUESTS: u64 = 12_031;
const PAGES: u64 = 288_500;
const UNIQUE: u64 = 182_790;
const HITS: u64 = 105_710;

fn replay(trace: &Path, directory: &Path, page_bytes: u64) -> Command {
    let mut command = hicache();
    command.args(["replay", "--json", "--concurrency", "1", "--page-bytes", &page_bytes.to_string()]);
    command.arg("--trace").arg(trace).arg("--dir").arg(directory);
    command
}

fn assert_right(report: &Value) {
    for (field, wanted) in [("requests", REQUESTS), ("pages", PAGES), ("unique_pages", UNIQUE)] {
        assert_eq!(number(report, field), wanted, "{field}");
    }
    assert_eq!(number(report, "corrupt_pages"), 0, "{report}");
    assert_eq!(number(report, "failed_pages"), 0, "{report}");
    assert_eq!(number(&report["restart"], "corrupt_pages"), 0, "{report}");
}

#[test]
fn with_room_for_everything_every_possible_hit_is_one() {
    let Some(trace) = trace() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (report, code) = json(&mut replay(&trace, directory.path(), 4096));
    say(&format!("{report:#}"));
    assert_eq!(code, Some(0));
    assert_right(&report);
    assert_eq!(number(&report, "hit_pages"), HITS);
    assert_eq!(number(&report, "evicted_pages"), 0);
    assert_eq!(number(&report["restart"], "hit_pages"), UNIQUE);
    assert_eq!(number(&report["restart"], "missing_pages"), 0);
}

/// At four capacities: never a wrong byte, never over the limit, and hits within 1 % of a plain LRU with as many slots.
#[test]
fn under_capacity_it_hits_as_lru_does_and_stays_below_the_limit() {
    let Some(trace) = trace() else { return };
    const PAGE: u64 = 16 << 10;
    for percent in [5, 10, 20, 40] {
        let directory = tempfile::tempdir().unwrap();
        // Slots, their metadata, and what a set takes before its first page.
        let capacity = UNIQUE * percent / 100 * (PAGE + 256) + (256 << 10);
        let mut command = replay(&trace, directory.path(), PAGE);
        command.args(["--policies", "--no-restart", "--capacity", &capacity.to_string()]);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut most = 0;
        while child.try_wait().unwrap().is_none() {
            most = most.max(disk_usage(directory.path()));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        most = most.max(disk_usage(directory.path()));
        let output = child.wait_with_output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let (hits, lru) = (number(&report, "hit_pages"), number(&report["policies"]["lru"], "hit_pages"));
        say(&format!(
            "{percent:2} %: {} slots, {hits} hits, LRU {lru}; du at most {most} of {capacity} bytes; {:.1} s",
            report["slots"],
            report["seconds"].as_f64().unwrap_or(f64::NAN)
        ));
        assert!(output.status.success(), "{report}");
        assert_eq!(number(&report, "corrupt_pages") + number(&report, "failed_pages"), 0, "{report}");
        assert!(most <= capacity, "du saw {most} bytes of {capacity}");
        let slots = number(&report, "slots");
        assert!(slots * 100 >= UNIQUE * (percent - 1), "only {slots} slots of {capacity} bytes");
        assert!(hits * 100 >= lru * 99, "{hits} hits, LRU has {lru}");
    }
}
