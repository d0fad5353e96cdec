//! The KV cache of LLM prompts, kept on storage: the crate that an engine author depends on.
//!
//! | module | what is there |
//! |---|---|
//! | [`config`] | [`Config`]: values from defaults, a file, the environment and the program, each with its origin |
//! | [`environment`] | [`Environment`]: variables and Python as a value; [`process_environment`] reads those of the process |
//! | [`registry`] | [`backends`]: the list of backends in this build |
//! | [`probe`] | [`probe_all`]: which of them work on this machine, and why the others don't |
//! | [`select`](mod@select) | [`select()`]: the one to use, with reasons for those that were passed over |
//! | [`open`](mod@open) | [`open()`]: from a configuration to a [`Storage`] |
//! | [`core`] | the traits and types of `hicache-core`, the common ones also at the top of this crate |
//!
//! Features choose what is built: `posix-uring` (on by default) keeps pages on local disks. Without any feature there
//! is the memory backend alone. `obj-s3` keeps pages in a bucket, `tiered` puts one storage before another: disks of
//! this machine before a bucket that every machine reads. `nixl` moves files and objects through the plugins of NIXL. `gds` adds the memory of GPUs: a device for the controller, and, where the field `device` names one, pages between files and it. `controller` adds the controller of engines written in Rust: it moves pages between device, host and any of these storages.
//!
//! # Pages in memory
//!
//! ```
//! use hicache::{Access, Config, PageKey, PageRequest, Region, Storage, StoreOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hicache::Result<()> {
//! let config = Config::builder().set("backend", "memory").set("capacity_bytes", "64MiB").build()?;
//! let storage = hicache::open(&config).await?.storage;
//!
//! let region = Region::allocate(2, 64 << 10)?; // Two slots of 64 KiB.
//! let registered = storage.register(&region)?; // Once, before the first transfer.
//! let key = PageKey::from_text("a page")?;
//!
//! let page = registered.page(0, 64 << 10, Access::Write)?;
//! let stored = storage.store(vec![PageRequest::new(key, page)], StoreOptions::default()).await;
//! assert!(stored.outcomes[0].is_done());
//!
//! let page = registered.page(1, 64 << 10, Access::Write)?;
//! let loaded = storage.load(vec![PageRequest::new(key, page)]).await;
//! assert_eq!(loaded.leading_done(), 1);
//! storage.close().await
//! # }
//! ```
#![cfg_attr(feature = "posix-uring", doc = include_str!("on_disk.md"))]

#[cfg(feature = "gds")]
mod gpu;
#[cfg(any(feature = "gds", feature = "nixl"))]
mod helper;
mod memory;
#[cfg(feature = "nixl")]
mod nixl;
#[cfg(feature = "page-store")]
mod open_engine;
#[cfg(not(feature = "page-store"))]
#[path = "open_engine_absent.rs"]
mod open_engine;
#[cfg(feature = "posix-uring")]
mod posix;
#[cfg(feature = "obj-s3")]
mod s3;
#[cfg(feature = "tiered")]
mod tiers;

pub mod config;
pub mod environment;
pub mod open;
pub mod probe;
pub mod registry;
pub mod select;

pub use config::{Config, ConfigBuilder, Explained, Origin, Settings};
pub use environment::{Environment, Python, loaded_into, process_environment};
#[cfg(feature = "controller")]
pub use hicache_controller as controller;
pub use hicache_core as core;
pub use hicache_core::{
    Access, Backend, Check, Engine, EngineCapabilities, Error, ErrorKind, Lease, ListCursor, ListedPage,
    Listing, MAX_TEXT_KEY_BYTES, MemoryKind, MemoryStorage, Namespace, Offer, Outcome, PageBatch, PageKey,
    PageMemory, PageRequest, Piece, PoolName, ProbeContext, ProbeReport, Region, Registration, Result,
    Storage, StorageStat, StoreOptions, Transfer, Verdict, hashing,
};
#[cfg(feature = "gds")]
pub use hicache_gds as gds;
#[cfg(feature = "nixl")]
pub use hicache_nixl_backend as nixl_backend;
#[cfg(feature = "obj-s3")]
pub use hicache_obj_s3 as obj_s3;
#[cfg(feature = "page-store")]
pub use hicache_page_store as page_store;
#[cfg(feature = "posix-uring")]
pub use hicache_posix_uring as posix_uring;
#[cfg(feature = "tiered")]
pub use hicache_tiered as tiered;
pub use open::{Opened, open};
pub use probe::{probe_all, probe_named};
pub use registry::backends;
pub use select::{Selected, Skipped, select};
