//! What is replayed: requests as chains of prefix blocks, read from a trace or generated, what a store that forgets
//! nothing would answer to them, and the bytes that a page must hold.

mod content;
mod error;
mod request;
mod summary;
mod synthetic;
mod trace;

pub use content::{check_page, fill_page};
pub use error::{LineFault, WorkloadError};
pub use request::Request;
pub use summary::{Summary, summarize};
pub use synthetic::{Expected, Synthetic, SyntheticConfig};
pub use trace::{MAX_LINE_BYTES, TraceReader};
