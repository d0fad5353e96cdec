//! The result of a replay.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::{Damage, ReadBack};
use crate::exit::{Exit, Failure};
use crate::output::{Output, align_numbers, count, size, table};
use crate::policies::{Outcome, PolicyKind};

/// The result. `hicache replay --help` says what each field is.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) workload: String,
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) backend: &'static str,
    pub(crate) page_bytes: usize,
    pub(crate) concurrency: usize,
    pub(crate) capacity_bytes: Option<u64>,
    pub(crate) slots: Option<u64>,
    pub(crate) requests: u64,
    pub(crate) pages: u64,
    pub(crate) unique_pages: u64,
    pub(crate) expected_hit_pages: u64,
    pub(crate) hit_pages: u64,
    pub(crate) stored_pages: u64,
    pub(crate) present_pages: u64,
    pub(crate) foreign_hit_pages: u64,
    pub(crate) far_stored_pages: u64,
    pub(crate) evicted_pages: u64,
    pub(crate) corrupt_pages: u64,
    pub(crate) undetected_corrupt_pages: u64,
    pub(crate) failed_pages: u64,
    pub(crate) refused_pages: u64,
    pub(crate) breaker_opened: u64,
    pub(crate) breakers_open: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) physical_bytes: u64,
    #[serde(flatten)]
    pub(crate) damage: Damage,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_rss_bytes: Option<u64>,
    pub(crate) examples: Vec<String>,
    pub(crate) restart: Option<Restart>,
    pub(crate) policies: Option<BTreeMap<&'static str, PolicyReport>>,
}

/// What was there after the storage was closed and opened again.
#[derive(Debug, Serialize)]
pub(crate) struct Restart {
    pub(crate) open_seconds: f64,
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) read: ReadBack,
}

/// What a policy would have done.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PolicyReport {
    hit_pages: u64,
    stored_pages: u64,
    evicted_pages: u64,
}

impl From<Outcome> for PolicyReport {
    fn from(Outcome { hit_pages, stored_pages, evicted_pages }: Outcome) -> Self {
        Self { hit_pages, stored_pages, evicted_pages }
    }
}

/// The result of `--check-acknowledged`.
#[derive(Debug, Serialize)]
pub(crate) struct CheckReport {
    pub(crate) acknowledged: u64,
    pub(crate) present: u64,
    pub(crate) missing: u64,
    pub(crate) corrupt: u64,
    pub(crate) failed: u64,
    pub(crate) open_seconds: f64,
    #[serde(flatten)]
    pub(crate) damage: Damage,
    pub(crate) examples: Vec<String>,
}

impl Report {
    /// Wrong bytes go before failures.
    pub(crate) fn exit(&self) -> Exit {
        let restart = self.restart.as_ref().map(|restart| restart.read).unwrap_or_default();
        if self.corrupt_pages + restart.corrupt_pages > 0 {
            Exit::Wrong
        } else if self.failed_pages + restart.failed_pages > 0 {
            Exit::Failed
        } else {
            Exit::Good
        }
    }

    /// Writes it as tables.
    pub(crate) fn show(&self, output: &mut Output) -> Result<(), Failure> {
        let place: Vec<String> = self.directories.iter().map(|path| path.display().to_string()).collect();
        output.line(format_args!(
            "{}: {} requests, {} pages of {}, {} different; {} in {}",
            self.workload,
            count(self.requests),
            count(self.pages),
            size(self.page_bytes as u64),
            count(self.unique_pages),
            self.backend,
            place.join(", ")
        ))?;
        let mut rows = table(["", "pages", "missing", "corrupt", "failed", "bytes", "seconds", "bytes/s"]);
        let rate = |bytes: u64, seconds: f64| match seconds {
            seconds if seconds > 0.0 => size((bytes as f64 / seconds) as u64),
            _ => String::new(),
        };
        let moved = self.bytes_read + self.bytes_written;
        rows.add_row([
            "hits".to_owned(),
            count(self.hit_pages),
            String::new(),
            count(self.corrupt_pages),
            count(self.failed_pages),
            size(self.bytes_read),
            format!("{:.1}", self.seconds),
            rate(moved, self.seconds),
        ]);
        rows.add_row(["stored", &count(self.stored_pages), "", "", "", &size(self.bytes_written), "", ""]);
        rows.add_row(["evicted", &count(self.evicted_pages), "", "", "", "", "", ""]);
        if let Some(Restart { seconds, read, .. }) = &self.restart {
            let bytes = read.hit_pages * self.page_bytes as u64;
            rows.add_row([
                "after restart".to_owned(),
                count(read.hit_pages),
                count(read.missing_pages),
                count(read.corrupt_pages),
                count(read.failed_pages),
                size(bytes),
                format!("{seconds:.1}"),
                rate(bytes, *seconds),
            ]);
        }
        align_numbers(&mut rows, 1);
        output.line(rows)?;
        if self.breaker_opened > 0 {
            output.line(format_args!(
                "the medium was cut off {} times, {} pages were refused meanwhile; {} cut off at the end",
                count(self.breaker_opened),
                count(self.refused_pages),
                count(self.breakers_open)
            ))?;
        }
        self.show_policies(output)?;
        let slots =
            self.slots.map_or_else(|| "no limit".to_owned(), |slots| format!("{} slots", count(slots)));
        output.line(format_args!(
            "{slots}; {} on disk; {:.1} s of CPU; {} of memory at most{}",
            size(self.physical_bytes),
            self.cpu_seconds,
            self.peak_rss_bytes.map_or_else(|| "?".to_owned(), size),
            self.restart
                .as_ref()
                .map_or_else(String::new, |it| format!("; reopened in {:.3} s", it.open_seconds))
        ))?;
        self.damage.show(output)?;
        for example in &self.examples {
            output.line(format_args!("wrong: {example}"))?;
        }
        Ok(())
    }

    fn show_policies(&self, output: &mut Output) -> Result<(), Failure> {
        let Some(policies) = &self.policies else { return Ok(()) };
        let mut rows = table(["policy", "hits", "of ours", "stored", "evicted"]);
        let mut add = |name: &str, hits: u64, stored: u64, evicted: u64| {
            let share = match self.hit_pages {
                0 => String::new(),
                ours => format!("{:.2} %", hits as f64 / ours as f64 * 100.0),
            };
            rows.add_row([name, &count(hits), &share, &count(stored), &count(evicted)]);
        };
        add("measured", self.hit_pages, self.stored_pages, self.evicted_pages);
        for kind in PolicyKind::ALL {
            if let Some(policy) = policies.get(kind.name()) {
                add(kind.name(), policy.hit_pages, policy.stored_pages, policy.evicted_pages);
            }
        }
        align_numbers(&mut rows, 1);
        output.line(rows)
    }
}

impl CheckReport {
    /// Writes it as a table.
    pub(crate) fn show(&self, output: &mut Output) -> Result<(), Failure> {
        let mut rows = table(["acknowledged", "present", "missing", "corrupt", "failed"]);
        let numbers = [self.acknowledged, self.present, self.missing, self.corrupt, self.failed];
        rows.add_row(numbers.map(count));
        align_numbers(&mut rows, 0);
        output.line(rows)?;
        self.damage.show(output)?;
        for example in &self.examples {
            output.line(format_args!("wrong: {example}"))?;
        }
        Ok(())
    }
}
