//! Log records on their way to Python's `logging`.
//!
//! They are made on threads that must not wait for the GIL: one that is being shut down would never give it. So they
//! are kept in a short queue, and whoever comes from Python takes them along.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};

/// Records that are kept; the oldest go first.
const MOST: usize = 256;

/// Level in the numbers of Python's `logging`, target, text.
type Record = (u8, String, String);

static RECORDS: Mutex<VecDeque<Record>> = Mutex::new(VecDeque::new());
/// The process that keeps them.
static KEEPER: OnceLock<u32> = OnceLock::new();

/// Keeps what is logged from `Info` on. Called before the first storage is opened, not when the module is imported: the
/// command logs to standard error.
#[pyfunction]
pub(crate) fn keep_records() {
    KEEPER.get_or_init(|| {
        let subscriber = tracing_subscriber::registry().with(Keep.with_filter(LevelFilter::INFO));
        let _ = tracing::subscriber::set_global_default(subscriber);
        std::process::id()
    });
}

/// What is kept. In a forked child, nothing while the lock is taken: a thread of the parent may have had it, for ever.
fn records() -> Option<MutexGuard<'static, VecDeque<Record>>> {
    if KEEPER.get().is_some_and(|&keeper| keeper != std::process::id()) {
        return RECORDS.try_lock().ok();
    }
    Some(RECORDS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Takes what was kept, the oldest first.
#[pyfunction]
pub(crate) fn take_records() -> Vec<Record> {
    records().map(|mut records| records.drain(..).collect()).unwrap_or_default()
}

struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            Level::INFO => 20,
            _ => 10,
        };
        let record = (level, event.metadata().target().replace("::", "."), text.message + &text.fields);
        let Some(mut records) = records() else { return };
        if records.len() == MOST {
            records.pop_front();
        }
        records.push_back(record);
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a text can't fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
