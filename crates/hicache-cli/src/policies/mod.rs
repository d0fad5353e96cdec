//! What other ways of choosing victims would have found: simulations of the store under known eviction policies, over
//! the same requests and slots as a replay.
//!
//! All play by the rule of the replay. A request asks for the longest prefix of its pages that is stored (its hits);
//! then every page of it counts as used, and those not stored are stored. A page found behind a gap is no hit, and is
//! used all the same.
//!
//! No page is pinned, not even those of the request at hand: each policy evicts what its own order says. Under LRU from
//! the end that is a page of the same request only where nothing else is left; under plain LRU as well, but for pages
//! behind a gap. ARC and S3-FIFO keep newcomers on a short leash, so a long request may push out its own pages, and the
//! optimum stores none that is not worth its slot.

mod arc;
mod kind;
mod lru;
mod optimum;
mod queues;
mod s3_fifo;
mod simulation;

pub(crate) use queues::Queues;

pub use kind::{PolicyKind, UnknownPolicy};
pub use simulation::{Outcome, simulate};
