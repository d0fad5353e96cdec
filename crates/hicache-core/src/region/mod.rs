//! Memory that never moves, and the right to touch a part of it.
//!
//! A [`Region`] is one allocation: ours, cut in slots, or somebody else's. A [`Lease`] is shared read or exclusive
//! write of a part of it. Whoever moves bytes holds the lease, and gives it up only when the bytes have stopped moving.

mod allocation;
mod lease;
mod slot_state;

pub use allocation::{MemoryKind, Region, SLOT_ALIGNMENT};
pub use lease::{Access, Lease};

/// The atomics of the slot state. The model checker compiles the same source against its own.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU32, Ordering};
}
