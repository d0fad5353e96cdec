//! Progress of what takes longer than a second.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that ends sooner shows no bar.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// A bar on standard error if that is a terminal, and nothing otherwise.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    begun: Instant,
    /// Whether a bar is still to be shown.
    waiting: AtomicBool,
}

impl Progress {
    /// A bar of `length` steps, called `unit`.
    pub(crate) fn new(what: &'static str, length: u64, unit: &'static str) -> Self {
        Self::with_template(
            what,
            length,
            &format!("{{msg}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit} {{eta}}"),
        )
    }

    /// A bar of `length` bytes.
    pub(crate) fn of_bytes(what: &'static str, length: u64) -> Self {
        Self::with_template(what, length, "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}")
    }

    fn with_template(what: &'static str, length: u64, template: &str) -> Self {
        let bar =
            ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden()).with_message(what);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, begun: Instant::now(), waiting: AtomicBool::new(io::stderr().is_terminal()) }
    }

    /// So many steps further.
    pub(crate) fn advance(&self, steps: u64) {
        self.bar.inc(steps);
        if self.waiting.load(Ordering::Relaxed)
            && self.begun.elapsed() >= SHOWN_AFTER
            && self.waiting.swap(false, Ordering::Relaxed)
        {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
