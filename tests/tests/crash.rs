//! `kill -9` at random instants under full write load: nothing wrong, nothing that doesn't open, nothing lost that was
//! answered.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hicache_tests::{hicache, json, number, say};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Rounds of the test with room for everything, and of the one that evicts.
const ROUNDS: u64 = 50;
const EVICTING_ROUNDS: u64 = 15;

struct Round<'a> {
    directory: &'a Path,
    acknowledged: &'a Path,
    seed: u64,
    extra: &'a [&'a str],
}

impl Round<'_> {
    fn command(&self) -> Command {
        let mut command = hicache();
        command
            .args(["replay", "--json", "--page-bytes", "65536"])
            .arg("--dir")
            .arg(self.directory)
            .args(self.extra);
        command
    }

    /// Writes at full load until killed `after` its first answered page.
    fn write_and_kill(&self, after: Duration) {
        let mut child = self
            .command()
            .args(["--no-restart", "--concurrency", "4", "--seed", &self.seed.to_string()])
            .arg("--acknowledged")
            .arg(self.acknowledged)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let length = || std::fs::metadata(self.acknowledged).map_or(0, |file| file.len());
        let before = length();
        while length() == before && child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing was stored for a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(after);
        // It may have come to its end by itself: then this round killed nothing, and says nothing wrong.
        let _ = child.kill();
        child.wait().unwrap();
    }

    fn check(&self) -> (u64, u64) {
        let (verified, code) = json(hicache().args(["verify", "--json"]).arg(self.directory));
        assert_eq!(code, Some(0), "verify after seed {}: {verified}", self.seed);
        assert_eq!(number(&verified, "corrupt_pages"), 0, "{verified}");
        let mut check = self.command();
        check.arg("--check-acknowledged").arg(self.acknowledged);
        let (found, code) = json(&mut check);
        assert_eq!(code, Some(0), "after seed {}: {found}", self.seed);
        assert_eq!(number(&found, "corrupt") + number(&found, "failed"), 0, "{found}");
        assert_eq!(number(&found, "present") + number(&found, "missing"), number(&found, "acknowledged"));
        (number(&found, "acknowledged"), number(&found, "missing"))
    }
}

fn rounds(count: u64, extra: &[&str], may_evict: bool) {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut pages = 0;
    let (mut directory, mut acknowledged) =
        (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    for round in 0..count {
        // Ten rounds go on with one store, each from what the kill before left.
        if round % 10 == 0 {
            directory = tempfile::tempdir().unwrap();
            acknowledged = tempfile::NamedTempFile::new().unwrap();
        }
        let seed = round + 1;
        let this = Round { directory: directory.path(), acknowledged: acknowledged.path(), seed, extra };
        this.write_and_kill(Duration::from_micros(u64::from(random.next_u32()) % 400_000));
        let (answered, missing) = this.check();
        assert!(
            may_evict || missing == 0,
            "round {round}: {missing} of {answered} answered pages are missing"
        );
        pages += answered;
    }
    say(&format!("{count} kills; {pages} answered pages looked up afterwards"));
}

#[test]
fn kills_with_room_for_everything() {
    rounds(ROUNDS, &[], false);
}

#[test]
fn kills_while_evicting() {
    rounds(EVICTING_ROUNDS, &["--capacity", "96MiB", "--segment-bytes", "4MiB"], true);
}
