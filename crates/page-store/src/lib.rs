//! Pages in segment files, over any engine.
//!
//! [`PageStore`] implements [`hicache_core::Storage`]: it owns the segment files, the index, the journal, eviction,
//! checksums and namespaces, and moves bytes through one or several [`hicache_core::Engine`]s.
//!
//! | module | what is there |
//! |---|---|
//! | `config` | [`PageStoreConfig`], [`Role`], [`Durability`] |
//! | `page_store` | [`PageStore`] |
//! | `worker`, `jobs` | the completion worker, and what runs on it: loads, stores, staging, lost operations, the breakers |
//! | `volume` | one root: commit, delete, clear, capacity, snapshots, the sets of other processes |
//! | `catalog` | index, slots, [`EvictionPolicy`] |
//! | `set` | the files of one writer: lock, journal, snapshot, segments, names, sequence, ledger, replay; following another's |
//! | `format` | records and manifests, byte by byte |
//! | [`inspect`] | reading a store from outside, running or dead |
//! | [`repair`] | mending what a damaged medium left |
//! | `audit` | the pages of a set, and whether they are what was stored |
//!
//! The files are described in `docs/on-disk-format.md`, the promises in `docs/semantics.md`.

mod audit;
mod catalog;
mod config;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod inspect;
mod jobs;
mod page_store;
pub mod repair;
mod set;
mod volume;
mod worker;

pub use catalog::{EvictionPolicy, Lru, SlotId};
pub use config::{Durability, LEAST_PAGES, PageStoreConfig, Role};
pub use page_store::PageStore;
