//! `cargo xtask demo`: store pages, kill the process, open the store again, and prove that every page is right.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{cargo, say};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Directory for the store; by default a temporary one that is removed.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Recorded workload (Mooncake JSONL) instead of the built-in one.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Length of a page in bytes.
    #[arg(long, default_value_t = 65_536)]
    page_bytes: u64,
    /// Backend to store with.
    #[arg(long, default_value = "auto")]
    backend: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    say("Building hicache in release; the first time takes a few minutes.");
    let hicache = cargo::build_hicache(&[])?;
    let temporary = tempfile::Builder::new().prefix("hicache-demo-").tempdir()?;
    let store = arguments.dir.clone().unwrap_or_else(|| temporary.path().join("store"));
    let acknowledged = temporary.path().join("acknowledged");
    let demo = Demo { hicache: &hicache, arguments, store: &store };
    demo.tell_backends()?;
    demo.kill_in_the_middle(&acknowledged)?;
    demo.prove(&acknowledged)?;
    demo.finish()
}

struct Demo<'a> {
    hicache: &'a Path,
    arguments: &'a Arguments,
    store: &'a Path,
}

impl Demo<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.hicache);
        command.args(words);
        command
    }

    fn open(&self) -> Command {
        let mut command = self.command(&["replay", "--json", "--backend", &self.arguments.backend]);
        command.arg("--dir").arg(self.store).args(["--page-bytes", &self.arguments.page_bytes.to_string()]);
        command
    }

    fn replay(&self) -> Command {
        let mut command = self.open();
        match &self.arguments.trace {
            Some(trace) => command.arg("--trace").arg(trace),
            None => command.arg("--synthetic"),
        };
        command
    }

    fn tell_backends(&self) -> Result<()> {
        say("\n1. Which backends work here:");
        let parent = self.store.parent().unwrap_or(Path::new("."));
        cargo::run(self.command(&["probe", "--dir"]).arg(parent))
    }

    fn kill_in_the_middle(&self, acknowledged: &Path) -> Result<()> {
        say("\n2. Store the pages of a workload, and kill the process in the middle (kill -9).");
        const ENOUGH: u64 = 3_000 * 32;
        let mut child = self
            .replay()
            .arg("--acknowledged")
            .arg(acknowledged)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let begun = Instant::now();
        // 32 bytes a page that was answered; the kill comes after enough of them, at no particular moment.
        while std::fs::metadata(acknowledged).map_or(0, |file| file.len()) < ENOUGH {
            if let Some(status) = child.try_wait()? {
                bail!("the replay ended by itself before it could be killed: {status}");
            }
            ensure!(begun.elapsed() < Duration::from_secs(120), "the replay stored nothing for two minutes");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().context("the replay could not be killed")?;
        let status = child.wait()?;
        let pages = std::fs::metadata(acknowledged)?.len() / 32;
        say(&format!(
            "   killed after {:.1} s ({status}); {pages} pages had been answered.",
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn prove(&self, acknowledged: &Path) -> Result<()> {
        say("\n3. Open the store again, and compare every byte of every page that was answered.");
        let mut check = self.open();
        check.arg("--check-acknowledged").arg(acknowledged);
        let report = json(&mut check)?;
        let number = |field: &str| report[field].as_u64().unwrap_or(u64::MAX);
        say(&format!(
            "   {} answered, {} there and right, {} missing, {} wrong; opened in {:.3} s.",
            number("acknowledged"),
            number("present"),
            number("missing"),
            number("corrupt"),
            report["open_seconds"].as_f64().unwrap_or(f64::NAN),
        ));
        ensure!(number("missing") == 0 && number("corrupt") == 0, "pages were lost or wrong: {report}");
        ensure!(number("present") == number("acknowledged"), "not every answered page is there: {report}");
        let report = json(self.command(&["verify", "--json"]).arg(self.store))?;
        say(&format!(
            "   verify: {} pages read from outside, {} corrupt.",
            report["good_pages"], report["corrupt_pages"]
        ));
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        say("\n4. The whole workload over the same store, then close, reopen, and read all of it again.");
        let report = json(&mut self.replay())?;
        let text =
            |value: &Value| value.as_f64().map_or_else(|| value.to_string(), |number| format!("{number:.2}"));
        let restart = &report["restart"];
        say(&format!(
            "   {} requests, {} pages, {} different; {} hits, {} stored; {} corrupt, {} failed; {} s with {}.",
            report["requests"],
            report["pages"],
            report["unique_pages"],
            report["hit_pages"],
            report["stored_pages"],
            report["corrupt_pages"],
            report["failed_pages"],
            text(&report["seconds"]),
            report["backend"].as_str().unwrap_or("?"),
        ));
        say(&format!(
            "   after the restart: {} of {} pages there and right, {} missing, {} corrupt; opened in {} s.",
            restart["hit_pages"],
            restart["pages"],
            restart["missing_pages"],
            restart["corrupt_pages"],
            text(&restart["open_seconds"]),
        ));
        for field in ["corrupt_pages", "failed_pages"] {
            ensure!(report[field] == 0, "{field} is not 0: {report}");
        }
        for field in ["corrupt_pages", "missing_pages"] {
            ensure!(restart[field] == 0, "{field} after the restart is not 0: {report}");
        }
        ensure!(restart["hit_pages"] == report["unique_pages"], "not every page came back: {report}");
        say("\nEvery page came back with the right bytes.");
        Ok(())
    }
}

/// Runs a command that prints one JSON object.
fn json(command: &mut Command) -> Result<Value> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("{command:?} did not start"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{command:?} ended with {}: {text}", output.status);
    serde_json::from_str(&text).with_context(|| format!("{command:?} printed {text:?}"))
}
