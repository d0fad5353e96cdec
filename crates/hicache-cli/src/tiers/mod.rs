//! `hicache replay --tiers`: a workload through the controller, with real copies and a model of the time that computing
//! takes.
//!
//! | module | what is there |
//! |---|---|
//! | `arguments` | [`TierArguments`] |
//! | `engine` | `TierEngine`: what an engine does with the controller for one request |
//! | `play` | [`play_tiers`]: all requests, and what came of them |
//! | `ideal` | [`simulate_tiers`]: what three LRU tiers of these sizes would have found |
//! | `report` | the result, as JSON and for people |

mod arguments;
mod engine;
mod ideal;
mod play;
mod report;

pub use arguments::TierArguments;
pub(crate) use engine::TierEngine;
pub use ideal::{TierHits, simulate_tiers};
pub use play::{TierPlay, TierSizes, play_tiers};
pub use report::TierReport;
