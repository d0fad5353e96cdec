//! `cargo xtask object-store`: the object store and the tiers against a real server, on the recorded trace.

pub(crate) mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{cargo, root, say};
use server::Server;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many requests of the trace.
    #[arg(long, default_value_t = 2000)]
    requests: usize,
    /// Length of a page in bytes.
    #[arg(long, default_value_t = 16_384)]
    page_bytes: u64,
    /// A `hicache` with the feature `obj-s3`, not built anew.
    #[arg(long)]
    hicache: Option<PathBuf>,
    /// Only one part: alone, side-by-side, killed.
    #[arg(long)]
    only: Option<String>,
    /// Measures client CPU an operation instead, beside a bare HTTP client, `object_store` and the AWS SDK.
    #[arg(long)]
    cpu: bool,
    /// Rounds of that.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.cpu {
        let run = ["run", "--release", "--package", "hicache-tests", "--features", "object-store"];
        let program = ["--bin", "hicache-object-store-cpu", "--", "--rounds", &arguments.rounds.to_string()];
        return cargo::run(cargo::cargo().args(run).args(program));
    }
    let trace = root().join("../shared/traces/conversation_trace.jsonl");
    if !trace.is_file() {
        say(
            "went without: the recorded trace is not beside the checkout (shared/traces/conversation_trace.jsonl)",
        );
        return Ok(());
    }
    let Some(program) = server::install()? else { return Ok(()) };
    let hicache = match &arguments.hicache {
        Some(hicache) => hicache.clone(),
        None => cargo::build_hicache(&["--features", "obj-s3"])?,
    };
    let temporary = tempfile::Builder::new().prefix("hicache-object-store-").tempdir()?;
    let server = Server::start(&program, &temporary.path().join("server"))?;
    let mut ground = Ground { hicache, arguments, server, temporary: temporary.path().to_owned() };
    ground.prepare(&trace)?;
    ground.probe()?;
    let wanted = |part: &str| arguments.only.as_ref().is_none_or(|only| only == part);
    if wanted("alone") {
        ground.alone()?;
    }
    if wanted("side-by-side") {
        ground.side_by_side()?;
    }
    if wanted("killed") {
        ground.killed()?;
    }
    Ok(())
}

struct Ground<'a> {
    hicache: PathBuf,
    arguments: &'a Arguments,
    server: Server,
    temporary: PathBuf,
}

fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or(u64::MAX)
}

impl Ground<'_> {
    /// Cuts the trace: the first requests, and their two halves.
    fn prepare(&self, trace: &Path) -> Result<()> {
        let text = std::fs::read_to_string(trace)?;
        let lines: Vec<&str> = text.lines().take(self.arguments.requests).collect();
        let middle = lines.len() / 2;
        for (name, lines) in
            [("whole", &lines[..]), ("first", &lines[..middle]), ("second", &lines[middle..])]
        {
            std::fs::write(self.temporary.join(name), lines.join("\n") + "\n")?;
        }
        Ok(())
    }

    fn replay(&self, trace: &str, backend: &str, prefix: &str, near: &str) -> Command {
        let mut command = Command::new(&self.hicache);
        command.args(["replay", "--json", "--backend", backend, "--concurrency", "8"]);
        command.args(["--page-bytes", &self.arguments.page_bytes.to_string()]);
        command.arg("--trace").arg(self.temporary.join(trace)).arg("--dir").arg(self.temporary.join(near));
        command.args(self.server.settings(prefix));
        // What it counts is what reaches the bucket, however slow the machine is.
        command.args(["--set", "tiered.drain_timeout_ms=600000"]);
        command.stdout(Stdio::piped());
        command
    }

    fn report(&self, what: &str, child: std::process::Child) -> Result<Value> {
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let report: Value = serde_json::from_str(&text).with_context(|| format!("{what}: {text}"))?;
        let wrong =
            number(&report, "corrupt_pages") + report["restart"]["corrupt_pages"].as_u64().unwrap_or(0);
        say(&format!(
            "{what}: {} hits of {} pages, {} stored, {} from afar, {} written there, {wrong} corrupt, {} failed, {:.1} s",
            report["hit_pages"],
            report["pages"],
            report["stored_pages"],
            report["foreign_hit_pages"],
            report["far_stored_pages"],
            report["failed_pages"],
            report["seconds"].as_f64().unwrap_or(f64::NAN)
        ));
        ensure!(wrong == 0, "{what}: {report:#}");
        ensure!(output.status.success(), "{what} ended with {}: {report:#}", output.status);
        Ok(report)
    }

    fn probe(&self) -> Result<()> {
        let mut command = Command::new(&self.hicache);
        command.args(["probe", "--json", "--set", "backend=obj-s3", "--dir"]).arg(&self.temporary);
        let output = command.args(self.server.settings("probe")).output()?;
        let report: Value = serde_json::from_slice(&output.stdout).context("the probe printed no JSON")?;
        ensure!(report["selected"] == "obj-s3", "{report:#}");
        Ok(())
    }

    /// Every page is in the bucket and nowhere else.
    fn alone(&self) -> Result<()> {
        let report = self.report("obj-s3", self.replay("whole", "obj-s3", "alone", "unused").spawn()?)?;
        let restart = &report["restart"];
        ensure!(number(restart, "hit_pages") == number(&report, "unique_pages"), "{report:#}");
        ensure!(number(restart, "missing_pages") == 0, "{report:#}");
        Ok(())
    }

    /// Two machines and one bucket, each with its own half of the requests, at the same time.
    fn side_by_side(&self) -> Result<()> {
        let mut first = self.replay("first", "tiered", "two", "near-1");
        let mut second = self.replay("second", "tiered", "two", "near-2");
        let (first, second) = (first.arg("--no-restart").spawn()?, second.arg("--no-restart").spawn()?);
        let reports = [self.report("the first half", first)?, self.report("the second half", second)?];
        let sum = |field: &str| reports.iter().map(|report| number(report, field)).sum::<u64>();
        let mut whole = Command::new(&self.hicache);
        whole.args(["replay", "--json", "--backend", "memory", "--trace"]).arg(self.temporary.join("whole"));
        let whole = whole.args(["--page-bytes", "512"]).stdout(Stdio::piped()).spawn()?;
        let unique = number(&self.report("unique pages", whole)?, "unique_pages");
        let puts = sum("far_stored_pages");
        // A near tier keeps all that its own replay computes: what comes from afar only the other one computed.
        let shared = sum("foreign_hit_pages");
        say(&format!(
            "{shared} hits of what only the other one computed; {puts} PUTs of {unique} pages: {:.4}",
            puts as f64 / unique as f64
        ));
        ensure!(shared > 0, "neither found what only the other computed");
        ensure!(puts as f64 <= 1.02 * unique as f64, "{puts} PUTs of {unique} pages");
        // Another machine that starts later finds what was computed by then.
        let mut third = self.replay("second", "tiered", "two", "near-3");
        let report = self.report("the second half again", third.arg("--no-restart").spawn()?)?;
        ensure!(number(&report, "foreign_hit_pages") > 0, "{report:#}");
        ensure!(number(&report, "hit_pages") == number(&report, "pages"), "{report:#}");
        Ok(())
    }

    /// The server is killed and started again in the middle: the replay goes on.
    fn killed(&mut self) -> Result<()> {
        // A near tier of a tenth, so that the far one is asked.
        let capacity = format!("{}", self.arguments.page_bytes * 4000);
        let mut replay = self.replay("whole", "tiered", "killed", "near-4");
        // As the requests came, ten times as fast: else it would be over before the server is back.
        replay.args(["--no-restart", "--realtime", "--speed", "10", "--capacity", &capacity]);
        let mut child = replay.spawn()?;
        let mut kills = 0;
        // Soon, so that a short replay sees it too, and then where the far tier has long been in use again.
        for pause in [1500, 10_000, 15_000].map(Duration::from_millis) {
            let until = Instant::now() + pause;
            while child.try_wait()?.is_none() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(50));
            }
            if child.try_wait()?.is_some() {
                break;
            }
            self.server.kill();
            std::thread::sleep(Duration::from_millis(1500));
            self.server.restart()?;
            kills += 1;
        }
        let report = self.report(&format!("tiered, the server killed {kills} times"), child)?;
        let afar = number(&report, "foreign_hit_pages") + number(&report, "far_stored_pages");
        ensure!(afar > 0, "the far tier was never used: {report:#}");
        ensure!(kills > 0, "it was over before the server was killed; give more --requests");
        ensure!(
            number(&report, "failed_pages") == 0,
            "a far tier that is down costs hits, no failures: {report:#}"
        );
        Ok(())
    }
}
