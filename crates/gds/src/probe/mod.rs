//! Whether pages can go between files and a GPU here, and which way: asked in a process of its own, since what is asked may hang
//! or crash.
//!
//! | module | what is there |
//! |---|---|
//! | `lines` | [`State`], [`Step`]: what the process says, line by line |
//! | `child` | [`answer`]: what runs in the process |
//! | `ask` | [`ask()`], [`Helper`]: starts the process, reads its lines, ends it when its time is over |
//! | `device_bytes` | the bytes that it moves where there is a device |

mod ask;
mod child;
mod device_bytes;
mod lines;

pub use ask::{Asked, Helper, Limits, Question, ask};
pub(crate) use child::DIRECT_BATCHES;
pub use child::answer;
pub use lines::{State, Step};
