//! Playing a workload into a storage, and reading back what it keeps.
//!
//! | module | what is there |
//! |---|---|
//! | `arguments` | [`ReplayArguments`] and the configuration that they make |
//! | `chain` | [`Workload`]: requests with the keys of their pages |
//! | `damage` | [`Damage`]: what the store lacked when it was opened |
//! | `lane` | [`Lane`]: the memory of one request in flight; loads, compares, fills, stores |
//! | `player` | [`play()`]: all requests, some at a time |
//! | `read_back` | [`read_back()`]: every page of a list, reading only |
//! | `acknowledged` | the file of pages that were answered `Done` |
//! | `tally` | counts, and the first things that went wrong |
//! | `report` | the result, as JSON and for people |

mod acknowledged;
mod arguments;
mod chain;
mod damage;
mod lane;
mod player;
mod read_back;
mod report;
mod tally;

pub(crate) use acknowledged::{Acknowledged, read_acknowledged};
pub(crate) use arguments::ReplayArguments;
pub(crate) use chain::Workload;
pub(crate) use damage::Damage;
pub(crate) use lane::{BATCH_PAGES, Lane};
pub(crate) use player::{Play, play};
pub(crate) use read_back::{ReadBack, read_back};
pub(crate) use report::{CheckReport, Report, Restart};
pub(crate) use tally::{Tally, Troubles};
