//! The suite for engines.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hicache_core::{Engine, EngineCapabilities};

use super::engine_ground::Ground;
use super::report::{CaseOutcome, SuiteReport};
use super::run::{CaseFuture, run_case};
use super::{engine_cases as cases, engine_life as life};

/// Where and how an engine is tested. What it can do, the suite asks it.
#[derive(Clone, Debug)]
pub struct EngineTraits {
    /// A directory of the file system that is to be tested; each case makes a file in it.
    pub directory: PathBuf,
    /// Longest that one case may take.
    pub case_limit: Duration,
}

impl EngineTraits {
    /// Tests in `directory`, with two minutes a case.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), case_limit: Duration::from_secs(120) }
    }
}

/// A fresh engine for one case, and what must live as long.
pub struct EngineUnderTest {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) keep: Box<dyn Any + Send>,
}

impl EngineUnderTest {
    /// An engine that needs nothing else.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, keep: Box::new(()) }
    }

    /// Keeps `thing` until the case is over; it is dropped after the engine.
    pub fn keeping(mut self, thing: impl Any + Send) -> Self {
        self.keep = Box::new((self.keep, thing));
        self
    }
}

type Missing = fn(&EngineCapabilities) -> Option<&'static str>;
type Case = for<'a> fn(&'a mut Ground) -> CaseFuture<'a>;

fn nothing(_: &EngineCapabilities) -> Option<&'static str> {
    None
}

fn byte_alignment(can: &EngineCapabilities) -> Option<&'static str> {
    (can.alignment != 1).then_some("needs alignment")
}

fn coarse_alignment(can: &EngineCapabilities) -> Option<&'static str> {
    (can.alignment == 1).then_some("takes any alignment")
}

fn several_pieces(can: &EngineCapabilities) -> Option<&'static str> {
    (can.max_pieces < 2).then_some("takes one piece an extent")
}

fn limited_pieces(can: &EngineCapabilities) -> Option<&'static str> {
    (can.max_pieces > 1024).then_some("takes more than 1024 pieces an extent")
}

fn lengths(can: &EngineCapabilities) -> Option<&'static str> {
    (!can.reports_lengths).then_some("does not report lengths")
}

macro_rules! cases {
    ($($name:literal, $missing:expr, $case:path;)+) => {
        &[$(($name, $missing, (|ground| Box::pin($case(ground))) as Case)),+]
    };
}

const CASES: &[(&str, Missing, Case)] = cases![
    "capabilities make sense", nothing, cases::capabilities;
    "an empty batch is answered at once", nothing, cases::empty_batch;
    "one extent comes back", nothing, cases::one_extent;
    "128 extents come back, in any order", nothing, cases::batch_of_128;
    "10,000 extents come back", nothing, cases::batch_of_10_000;
    "what is written is in the file, where it should be", nothing, cases::file_holds_what_was_written;
    "odd offsets and lengths", byte_alignment, cases::odd_lengths;
    "extents of a MiB and more", nothing, cases::large_extents;
    "extents in several pieces", several_pieces, cases::several_pieces;
    "as many pieces as it says, and not one more", limited_pieces, cases::most_pieces;
    "what is not aligned is refused", coarse_alignment, cases::unaligned;
    "memory leased for reading can be written from", nothing, cases::write_from_read_lease;
    "a read into a read lease is refused", nothing, cases::read_into_read_lease;
    "memory and files of another owner are refused", nothing, cases::another_owner;
    "an offset beyond any file is refused", nothing, cases::offset_overflows;
    "a read past the end gives the short count", lengths, cases::read_past_end;
    "an overwrite replaces what it covers and nothing else", nothing, cases::overwrite;
    "several files and regions", nothing, cases::several_files;
    "batches of several threads", nothing, life::threads;
    "many batches at one time", nothing, life::many_batches;
    "a dropped transfer is finished all the same", nothing, life::dropped_transfers;
    "memory and file outlive every handle of the caller", nothing, life::dropped_handles;
    "memory comes back when the engine itself is dropped", nothing, life::dropped_engine;
    "after close everything is closed", nothing, life::close;
    "close drains what is under way", nothing, life::close_drains;
];

/// Takes an engine through every case that applies to its capabilities, each with a fresh one from `make`.
///
/// ```
/// use hicache_testkit::ThreadEngine;
/// use hicache_testkit::conformance::{EngineTraits, EngineUnderTest, engine_suite};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let directory = tempfile::tempdir().unwrap();
/// let make = async || EngineUnderTest::new(ThreadEngine::new().unwrap());
/// let report = engine_suite("thread", &EngineTraits::new(directory.path()), make).await;
/// report.assert_complete(24); // It has no alignment, so one of 25 does not apply.
/// # }
/// ```
pub async fn engine_suite(
    subject: &str,
    traits: &EngineTraits,
    make: impl AsyncFn() -> EngineUnderTest,
) -> SuiteReport {
    let mut report = SuiteReport { subject: subject.to_owned(), cases: Vec::new() };
    for (name, missing, case) in CASES {
        let under_test = make().await;
        let outcome = match missing(under_test.engine.capabilities()) {
            Some(reason) => CaseOutcome::Skipped(reason.to_owned()),
            None => match Ground::new(under_test, traits) {
                Ok(mut ground) => {
                    let outcome = run_case(case(&mut ground), traits.case_limit).await;
                    ground.end().await;
                    outcome
                }
                Err(failure) => CaseOutcome::Failed(failure.0),
            },
        };
        report.cases.push((name, outcome));
    }
    report
}
