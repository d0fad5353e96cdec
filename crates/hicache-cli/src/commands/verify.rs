//! `hicache verify`: reads and checks every page of a store, and mends what can be mended.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use hicache_page_store::inspect::{self, SetStat, Verified};
use hicache_page_store::repair::{self, Repaired};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::output::{Output, align_numbers, count, size, table};
use crate::progress::Progress;

/// Arguments of `hicache verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// Storage directory: all sets of all namespaces under it are checked. Without --repair it is not changed, and no
    /// server that uses it is in the way
    dir: PathBuf,
    /// Mend the sets that no server has open: drop the pages that are corrupt, cut what is torn, write journals and
    /// snapshots anew, remove what is left over. Exit code 0 if all is in order then, whatever went; 1 if something is
    /// left that only a person or a server can mend; 3 if pages could not be read
    #[arg(long)]
    repair: bool,
    /// Print one JSON object: `good_pages`, `superseded_pages` (evicted or replaced while being read), `corrupt_pages`,
    /// `read_bytes`, `seconds`, `examples`, `sets`. With --repair: `sets` (of each `changed`, `good_pages`,
    /// `dropped_pages`, `lost_pages`, `unreadable_pages`, `bad_records`, `bad_snapshots`, `bad_name_bytes`, `removed`,
    /// `unknown`), `in_use`, `restored_manifests`, `left`, `seconds`
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
    if arguments.repair {
        return mend(arguments, output);
    }
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

#[derive(Serialize)]
struct RepairReport {
    directory: PathBuf,
    #[serde(flatten)]
    repaired: Repaired,
    seconds: f64,
}

fn mend(arguments: &VerifyArguments, output: &mut Output) -> Result<Exit, Failure> {
    let begun = Instant::now();
    // A store that can't be looked at has no length; it is mended all the same.
    let views = inspect::sets(&arguments.dir).unwrap_or_default();
    let progress = Progress::of_bytes("repair", views.iter().map(|view| view.stat().page_bytes).sum());
    drop(views);
    if !arguments.dir.is_dir() {
        return Err(Failure::bad_input(format!("{} is not a directory", arguments.dir.display())));
    }
    let repaired = repair::repair(&arguments.dir, |bytes| progress.advance(bytes))?;
    drop(progress);
    let seconds = begun.elapsed().as_secs_f64();
    let report = RepairReport { directory: arguments.dir.clone(), repaired, seconds };
    if arguments.json {
        output.json(&report)?;
    } else {
        show_repaired(&report, output)?;
    }
    let Repaired { sets, left, .. } = &report.repaired;
    Ok(if sets.iter().any(|set| set.unreadable_pages > 0) {
        Exit::Failed
    } else if left.is_empty() {
        Exit::Good
    } else {
        Exit::Wrong
    })
}

fn show_repaired(report: &RepairReport, output: &mut Output) -> Result<(), Failure> {
    /// Pages that are named; JSON names all.
    const MOST_NAMED: usize = 20;
    let Repaired { sets, in_use, restored_manifests, left } = &report.repaired;
    let mut rows =
        table(["set", "good", "corrupt, dropped", "lost", "unreadable", "bad records", "bad snapshots"]);
    for set in sets {
        let directory = set.directory.strip_prefix(&report.directory).unwrap_or(&set.directory);
        rows.add_row([
            directory.display().to_string(),
            count(set.good_pages),
            count(set.dropped_pages.len() as u64),
            count(set.lost_pages),
            count(set.unreadable_pages),
            count(set.bad_records),
            count(set.bad_snapshots),
        ]);
    }
    align_numbers(&mut rows, 1);
    output.line(rows)?;
    for set in sets {
        for page in set.dropped_pages.iter().take(MOST_NAMED) {
            output.line(format_args!(
                "dropped: page {} of pool {}, {}",
                page.name,
                page.pool,
                size(page.bytes)
            ))?;
        }
        if let Some(more @ 1..) = set.dropped_pages.len().checked_sub(MOST_NAMED) {
            output.line(format_args!("dropped: {} pages more; --json names all", count(more as u64)))?;
        }
        if set.bad_name_bytes > 0 {
            let bytes = size(set.bad_name_bytes);
            output.line(format_args!("dropped: {bytes} of the names log of {}", set.directory.display()))?;
        }
        for path in &set.removed {
            output.line(format_args!("removed: {}", path.display()))?;
        }
        for path in &set.unknown {
            output.line(format_args!("not the store's, and left: {}", path.display()))?;
        }
    }
    for path in restored_manifests {
        output.line(format_args!("put back from a copy beside it: {}", path.display()))?;
    }
    for path in in_use {
        output.line(format_args!("in use by a running process, and left alone: {}", path.display()))?;
    }
    for what in left {
        output.line(format_args!("still wrong: {what}"))?;
    }
    let changed = sets.iter().filter(|set| set.changed).count() + restored_manifests.len();
    let dropped: u64 = sets.iter().map(|set| set.dropped_pages.len() as u64 + set.lost_pages).sum();
    output.line(match changed {
        0 => format!("nothing to mend; {:.1} s", report.seconds),
        _ => format!("mended; {} pages went; {:.1} s", count(dropped), report.seconds),
    })
}
