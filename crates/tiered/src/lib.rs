//! A near storage before a far one: the disk of this machine before a store that every machine reads.
//!
//! ```
//! use std::sync::Arc;
//! use hicache_core::{Access, MemoryStorage, PageKey, PageRequest, Region, Storage, StoreOptions};
//! use hicache_tiered::{Tiered, TieredConfig};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> hicache_core::Result<()> {
//! let far = Arc::new(MemoryStorage::new());
//! let storage = Tiered::open(Arc::new(MemoryStorage::new()), far.clone(), TieredConfig::default())?;
//! let registered = storage.register(&Region::allocate(1, 4096)?)?;
//! let page = PageRequest::new(PageKey::kv([7; 32]), registered.page(0, 4096, Access::Write)?);
//! assert!(storage.store(vec![page], StoreOptions::default()).await.outcomes[0].is_done());
//! storage.close().await?; // Waits for what is on its way to the far one.
//! # Ok(()) }
//! ```
//!
//! | module | what is there |
//! |---|---|
//! | `config` | [`TieredConfig`]: the bounds |
//! | `storage` | [`Tiered`], the `Storage` |
//! | `shared` | what its parts share: tiers, gate, counts |
//! | `load`, `store`, `keys` | the calls |
//! | `uploads` | pages on their way to the far tier |
//! | `link` | whether the far tier is asked at all |
//! | `part` | pages of a batch lent to one tier |
//! | `staging` | memory for copies |
//! | `recent` | keys remembered for a while |
//! | `counts` | [`TierCounts`] |
//!
//! # What it promises
//!
//! - A load asks the near tier, then for what is missing the far one; what that had is kept near, from a copy, after
//!   the caller has been answered.
//! - A store is answered when the near tier has it. The far one gets it in the background: from a copy if there is
//!   memory for one, else read from the near tier when its turn comes. At most `queue_pages` wait; further ones are
//!   counted and not sent.
//! - A store with overwrite is answered when both have it, since an old page in the far tier would come back.
//! - A far tier that fails is left alone for a while, and costs its hits and nothing else: a page that only it could
//!   have is a miss then. A page that it has and that is corrupt is reported.
//! - `delete` and `clear` are done in both, or say what failed. Nothing that is under way brings back what they took.
//! - Equal keys stored with different bytes, without overwrite, on two machines: each keeps its own near, one of them far.

mod config;
mod counts;
mod keys;
mod link;
mod load;
mod part;
mod recent;
mod shared;
mod staging;
mod storage;
mod store;
mod uploads;

pub use config::TieredConfig;
pub use counts::TierCounts;
pub use storage::Tiered;
