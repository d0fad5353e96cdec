//! Counts, and the first things that went wrong.

use std::fmt;
use std::ops::AddAssign;
use std::sync::{Mutex, PoisonError};

/// What was counted while pages moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Pages loaded, and right.
    pub(crate) right_pages: u64,
    /// Pages that were not there.
    pub(crate) absent_pages: u64,
    /// Pages with wrong bytes, whoever found out.
    pub(crate) corrupt_pages: u64,
    /// Of them those that the storage passed as right.
    pub(crate) undetected_corrupt_pages: u64,
    /// Pages that failed otherwise.
    pub(crate) failed_pages: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.right_pages += other.right_pages;
        self.absent_pages += other.absent_pages;
        self.corrupt_pages += other.corrupt_pages;
        self.undetected_corrupt_pages += other.undetected_corrupt_pages;
        self.failed_pages += other.failed_pages;
    }
}

/// The first things that went wrong, each logged when it happens; the counts have the rest.
#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<Vec<String>>);

impl Troubles {
    const MOST: usize = 10;

    /// Something went wrong.
    pub(crate) fn add(&self, trouble: impl fmt::Display) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < Self::MOST {
            tracing::warn!("{trouble}");
            told.push(trouble.to_string());
        }
    }

    /// What went wrong since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
