//! What became of each case of a suite.

use std::fmt;

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseOutcome {
    /// It ran and held.
    Passed,
    /// It did not run, and why.
    Skipped(String),
    /// It ran and did not hold, and why.
    Failed(String),
}

/// What became of each case, in order.
#[derive(Clone, Debug)]
#[must_use = "a suite only fails when its report is asked"]
pub struct SuiteReport {
    /// What was tested.
    pub subject: String,
    /// Name and outcome of every case that there is.
    pub cases: Vec<(&'static str, CaseOutcome)>,
}

impl SuiteReport {
    /// How many cases ran and held.
    pub fn passed(&self) -> usize {
        self.cases.iter().filter(|(_, outcome)| *outcome == CaseOutcome::Passed).count()
    }

    /// The cases that did not run, with the reason.
    pub fn skipped(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.cases.iter().filter_map(|(name, outcome)| match outcome {
            CaseOutcome::Skipped(reason) => Some((*name, reason.as_str())),
            _ => None,
        })
    }

    /// The cases that did not hold, with the reason.
    pub fn failed(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.cases.iter().filter_map(|(name, outcome)| match outcome {
            CaseOutcome::Failed(reason) => Some((*name, reason.as_str())),
            _ => None,
        })
    }

    /// Panics, with the whole report, if a case failed or if fewer than `at_least` passed. Say the exact number that
    /// should pass on every machine: then a case that silently stops running is noticed.
    #[track_caller]
    pub fn assert_complete(&self, at_least: usize) {
        assert!(at_least > 0, "a suite of which nothing must run proves nothing");
        assert!(self.failed().next().is_none(), "{self}");
        assert!(self.passed() >= at_least, "only {} of {at_least} cases ran\n{self}", self.passed());
    }
}

impl fmt::Display for SuiteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, skipped) = (self.failed().count(), self.skipped().count());
        writeln!(f, "{}: {} passed, {failed} failed, {skipped} skipped", self.subject, self.passed())?;
        for (name, outcome) in &self.cases {
            match outcome {
                CaseOutcome::Passed => writeln!(f, "  ok      {name}")?,
                CaseOutcome::Skipped(reason) => writeln!(f, "  skipped {name}: {reason}")?,
                CaseOutcome::Failed(reason) => writeln!(f, "  FAILED  {name}: {reason}")?,
            }
        }
        Ok(())
    }
}
