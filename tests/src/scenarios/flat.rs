//! What a long-lived process holds of the machine does not grow.

use crate::process::{Actor, Holding};
use crate::say;

/// Samples of one process.
#[derive(Debug, Default)]
pub struct Samples(Vec<Holding>);

impl Samples {
    /// Takes one.
    pub fn take(&mut self, actor: &Actor) {
        self.0.extend(actor.holding());
    }

    /// Refuses memory whose last quarter lies above the second by more than noise. The first quarter is warming up.
    pub fn judge(&self, who: &str) {
        assert!(self.0.len() >= 16, "only {} samples of {who}", self.0.len());
        let quarter = self.0.len() / 4;
        let median = |part: &[Holding], of: fn(&Holding) -> u64| {
            let mut values: Vec<u64> = part.iter().map(of).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        let both =
            |of| (median(&self.0[quarter..2 * quarter], of), median(&self.0[self.0.len() - quarter..], of));
        let ((early_files, late_files), (early, late)) =
            (both(|holding| holding.files), both(|holding| holding.resident_bytes));
        say(&format!(
            "{who}: {early_files} files and {} KiB in the second quarter, {late_files} and {} KiB in the last ({} samples)",
            early >> 10,
            late >> 10,
            self.0.len()
        ));
        assert!(late <= early + early / 10 + (4 << 20), "memory of {who} grows from {early} to {late} bytes");
    }
}
