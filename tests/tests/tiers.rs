//! Workloads through device, host and storage: beside an ideal simulation, and in real time with several requests in
//! flight.

use hicache::controller::Layout;
use hicache_tests::{hicache, json, number, say, trace};
use serde_json::Value;

fn within_one_percent(report: &Value) {
    for tier in ["device_pages", "host_pages", "storage_pages"] {
        let (hits, ideal) = (number(&report["hits"], tier), number(&report["ideal"], tier));
        say(&format!("{tier}: {hits}, ideal {ideal}"));
        assert!(ideal > 0 && hits.abs_diff(ideal) * 100 <= ideal, "{tier}: {hits}, ideal {ideal}");
    }
    for field in ["corrupt_pages", "leaked_pages", "abandoned_pages", "refused_requests", "failed_loads"] {
        assert_eq!(number(report, field), 0, "{field}");
    }
    assert_eq!(report["drained"], true);
}

#[test]
fn the_trace_finds_what_an_ideal_simulation_finds() {
    let Some(trace) = trace() else { return };
    let mut command = hicache();
    command.args(["replay", "--tiers", "--json", "--page-bytes", "16384", "--trace"]).arg(trace);
    let (report, code) = json(&mut command);
    say(&format!("{} s, time to the first token in ms: {}", report["seconds"], report["first_token_ms"]));
    assert_eq!(code, Some(0));
    within_one_percent(&report);
    assert_eq!(number(&report, "requests"), 12_031);
}

#[test]
fn made_up_conversations_likewise_in_every_layout() {
    for layout in Layout::ALL {
        let mut command = hicache();
        command.args([
            "replay",
            "--tiers",
            "--json",
            "--synthetic",
            "--requests",
            "400",
            "--page-bytes",
            "4096",
        ]);
        command.args(["--host-layout", layout.as_str()]);
        let (report, code) = json(&mut command);
        assert_eq!(code, Some(0), "{layout}");
        within_one_percent(&report);
    }
}

#[test]
fn bad_input_is_refused() {
    for (arguments, words) in [
        (["--host-layout", "page_last"], "page_first_direct"),
        (["--write-policy", "never"], "write_back"),
        (["--page-bytes", "1000"], "multiple of 32"),
        (["--speed", "4"], "--realtime"),
        (["--concurrency", "0"], "1..=1024"),
        (["--host-percent", "2"], "must be larger"),
    ] {
        let mut command = hicache();
        let output =
            command.args(["replay", "--tiers", "--requests", "10"]).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(words), "{arguments:?}: {text}");
    }
}

#[test]
fn several_requests_in_flight_in_real_time() {
    let mut command = hicache();
    command.args(["replay", "--tiers", "--json", "--synthetic", "--requests", "600", "--page-bytes", "4096"]);
    // Ten minutes of requests in two seconds; the device computes as much faster.
    command.args(["--realtime", "--speed", "300", "--concurrency", "8", "--device-percent", "8"]);
    let (report, code) = json(command.args(["--host-percent", "16"]));
    assert_eq!(code, Some(0), "{report}");
    for field in ["corrupt_pages", "leaked_pages", "abandoned_pages", "failed_loads"] {
        assert_eq!(number(&report, field), 0, "{field}");
    }
    let hits = ["device_pages", "host_pages", "storage_pages"].map(|tier| number(&report["hits"], tier));
    let ideal = ["device_pages", "host_pages", "storage_pages"].map(|tier| number(&report["ideal"], tier));
    say(&format!(
        "{} s; hits {hits:?}, ideal of one after the other {ideal:?}; to the first token {} ms, seen {} ms",
        report["seconds"], report["first_token_ms"], report["first_token_seen_ms"]
    ));
    let found = hits.iter().sum::<u64>() + number(&report, "computed_pages");
    assert_eq!((found, number(&report, "refused_requests")), (number(&report, "pages"), 0));
    assert!(hits.iter().sum::<u64>() * 10 > ideal.iter().sum::<u64>() * 7, "{hits:?} {ideal:?}");
    // Each tier shortens it, and who waits for others sees more than the sum of its own times at this speed.
    let first = |name: &str| report["first_token_ms"][name].as_f64().unwrap();
    let times = ["all", "without_storage", "device_only", "no_cache"].map(first);
    assert!(times.is_sorted() && times[0] * 1.2 < times[3], "{times:?}");
    let seen = report["first_token_seen_ms"].as_f64().unwrap();
    assert!(seen * 300.0 > times[0] * 0.5, "{seen} ms, {times:?}");
    // It took about as long as the requests do.
    assert!(report["seconds"].as_f64().unwrap() > 1.0, "{}", report["seconds"]);
}
