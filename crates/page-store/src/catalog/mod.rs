//! What the store knows in memory: which page is in which slot, which slots are free, and who goes first.

mod index;
mod mask;
mod policy;
mod slots;

pub use policy::{EvictionPolicy, Lru, SlotId};

pub(crate) use index::{Catalog, Found};
pub(crate) use mask::Mask;
pub(crate) use policy::Unordered;
