//! Pages in segment files, over any engine.
//!
//! [`PageStore`] implements [`hicache_core::Storage`]: it owns the segment files, the index, the journal, eviction,
//! checksums and namespaces, and moves bytes through one or several [`hicache_core::Engine`]s.
//!
//! | module | what is there |
//! |---|---|
//! | `config` | [`PageStoreConfig`], [`Durability`] |
//! | `page_store` | [`PageStore`] |
//! | `worker`, `jobs` | the completion worker, and what runs on it: loads, stores, staging, lost operations, the breakers |
//! | `volume` | one root: commit, delete, clear, capacity, snapshots |
//! | `catalog` | index, slots, [`EvictionPolicy`] |
//! | `set` | the files of one writer: lock, journal, snapshot, segments, names, sequence, ledger, replay |
//! | `format` | records and manifests, byte by byte |
//! | [`inspect`] | reading a store from outside, running or dead |
//!
//! The files are described in `docs/on-disk-format.md`, the promises in `docs/semantics.md`.

mod catalog;
mod config;
mod fork_mark;
mod format;
pub mod inspect;
mod jobs;
mod page_store;
mod set;
mod volume;
mod worker;

pub use catalog::{EvictionPolicy, Lru, SlotId};
pub use config::{Durability, LEAST_PAGES, PageStoreConfig};
pub use page_store::PageStore;
