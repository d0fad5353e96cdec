//! `hicache verify`: reads and checks every page of a store.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use hicache_page_store::inspect::{self, SetStat, Verified};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::output::{Output, align_numbers, count, size, table};
use crate::progress::Progress;

/// Arguments of `hicache verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// Storage directory: all sets of all namespaces under it are checked. It is not changed, and no server that uses
    /// it is in the way
    dir: PathBuf,
    /// Print one JSON object: `good_pages`, `superseded_pages` (evicted or replaced while being read), `corrupt_pages`,
    /// `read_bytes`, `seconds`, `examples`, `sets`
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    directory: PathBuf,
    #[serde(flatten)]
    total: Verified,
    seconds: f64,
    sets: Vec<Set>,
}

#[derive(Serialize)]
struct Set {
    #[serde(flatten)]
    stat: SetStat,
    #[serde(flatten)]
    verified: Verified,
}

pub(crate) fn run(arguments: &VerifyArguments, output: &mut Output) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let views = inspect::sets(&arguments.dir).map_err(|error| Failure::unreadable(&error))?;
    let stats: Vec<SetStat> = views.iter().map(inspect::SetView::stat).collect();
    let progress = Progress::of_bytes("verify", stats.iter().map(|stat| stat.page_bytes).sum());
    let mut total = Verified::default();
    let mut sets = Vec::new();
    for (view, stat) in views.iter().zip(stats) {
        let verified = view.verify(|bytes| progress.advance(bytes))?;
        total.good_pages += verified.good_pages;
        total.superseded_pages += verified.superseded_pages;
        total.corrupt_pages += verified.corrupt_pages;
        total.read_bytes += verified.read_bytes;
        total.examples.extend_from_slice(&verified.examples);
        sets.push(Set { stat, verified });
    }
    drop(progress);
    let seconds = begun.elapsed().as_secs_f64();
    let report = Report { directory: arguments.dir.clone(), total, seconds, sets };
    if arguments.json {
        output.json(&report)?;
    } else {
        show(&report, output)?;
    }
    Ok(if report.total.corrupt_pages > 0 { Exit::Wrong } else { Exit::Good })
}

fn show(report: &Report, output: &mut Output) -> Result<(), Failure> {
    let mut rows = table(["set", "good", "superseded", "corrupt", "read", "bad records"]);
    for Set { stat, verified } in &report.sets {
        let set = stat.directory.strip_prefix(&report.directory).unwrap_or(&stat.directory);
        rows.add_row([
            set.display().to_string(),
            count(verified.good_pages),
            count(verified.superseded_pages),
            count(verified.corrupt_pages),
            size(verified.read_bytes),
            count(stat.bad_records),
        ]);
    }
    align_numbers(&mut rows, 1);
    output.line(rows)?;
    for example in &report.total.examples {
        output.line(format_args!("corrupt: {example}"))?;
    }
    let Verified { good_pages, superseded_pages, corrupt_pages, .. } = report.total;
    output.line(format_args!(
        "{} pages good, {} superseded while reading, {} corrupt; {:.1} s",
        count(good_pages),
        count(superseded_pages),
        count(corrupt_pages),
        report.seconds
    ))
}
