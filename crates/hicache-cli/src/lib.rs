//! What the `hicache` command is made of.
//!
//! | module | what is there |
//! |---|---|
//! | [`run`], [`run_to_code`] | the command itself: arguments in, exit code out |
//! | [`workload`] | what is replayed: traces, the synthetic generator, the bytes of a page |
//! | [`policies`] | what other eviction policies would have found |
//! | `commands` | one file a command |
//! | `replay` | playing a workload into a storage and reading it back |
//! | [`tiers`] | playing a workload through device, host and storage with the controller |
//! | `arguments`, `exit`, `output`, `progress`, `logging`, `process_usage` | what the commands share |

mod arguments;
mod commands;
mod exit;
mod logging;
mod output;
pub mod policies;
mod process_usage;
mod progress;
mod replay;
pub mod tiers;
pub mod workload;

pub use commands::{run, run_to_code};
