//! Wrappers that inject faults into a real engine or a real storage.
//!
//! | module | what is there |
//! |---|---|
//! | `plan` | [`FaultPlan`]: which operation meets which fault, by number, by chance or by a closure |
//! | `engine` | [`FaultyEngine`]: short, late, failing, corrupting and lost operations |
//! | `storage` | [`FaultyStorage`]: late, failing, absent and corrupt pages |

mod engine;
mod plan;
mod storage;

pub use engine::{EngineFault, FaultyEngine, InjectedFaults};
pub use plan::{FaultPlan, Operation};
pub use storage::{FaultyStorage, StorageFault};
