//! What every part of hicache shares: names of pages, memory that devices write into, transfers, errors, and the
//! traits that backends implement.
//!
//! | module | what is there |
//! |---|---|
//! | [`key`] | [`PageKey`]: a pool name and a 32-byte digest |
//! | [`namespace`] | [`Namespace`]: what makes the same tokens different bytes |
//! | [`region`] | [`Region`], [`Lease`]: memory that never moves, and the right to touch a part of it |
//! | [`memory`] | [`Registration`], [`Piece`], [`PageMemory`]: where the bytes of a page are |
//! | [`transfer`] | [`Transfer`], [`Completion`]: the receiver that a caller holds, the sender that an engine holds |
//! | [`storage`] | [`Storage`]: pages by key |
//! | [`engine`] | [`Engine`]: extents of open files |
//! | [`device`] | [`Device`]: memory that a model computes in, streams, page copies; [`CpuDevice`] |
//! | [`backend`] | [`Backend`]: what a build offers, and the probe that says whether it works here |
//! | [`memory_storage`] | [`MemoryStorage`]: the reference backend that is always present |
//! | [`recent_keys`] | [`RecentKeys`]: what was learned of keys, with a bound and an age |
//! | `calls` | `Calls`, with the feature of that name: how a storage with a runtime of its own takes calls |
//! | [`error`] | [`Error`], [`ErrorKind`] |
//! | [`fork_mark`] | [`ForkMark`]: whether the process has forked since |
//!
//! The crate names no backend, does no I/O and depends on no FFI crate; of the system it asks for memory.
//!
//! # The rule that keeps memory safe
//!
//! Kernels and devices write into memory after a Rust future is gone. So submitting *moves* the leases of the
//! memory into the engine; the caller's future holds only a receiver, and dropping it frees nothing. A lease ends
//! when the device has finished with that memory, and comes back to the caller in the answer.

pub mod backend;
#[cfg(feature = "calls")]
pub mod calls;
pub mod device;
pub mod engine;
pub mod error;
pub mod fork_mark;
pub mod key;
pub mod memory;
pub mod memory_storage;
pub mod namespace;
pub mod probing;
pub mod recent_keys;
pub mod region;
pub mod storage;
pub mod transfer;

pub use backend::{Backend, Check, Offer, ProbeContext, ProbeReport, Verdict};
#[cfg(feature = "calls")]
pub use calls::{Call, Calls};
pub use device::{
    Block, CopiesDone, CopyBatch, CopyPlan, CpuDevice, Device, DeviceFault, DeviceOperation, Event, PageCopy,
    PageLeases, Place, StepHook, Stream,
};
pub use engine::{
    Completes, Direction, Engine, EngineCapabilities, EngineFile, Extent, ExtentsDone, PieceSums,
};
pub use error::{Error, ErrorKind, Result};
pub use fork_mark::ForkMark;
pub use hicache_hashing as hashing;
pub use key::{MAX_TEXT_KEY_BYTES, PageKey, PoolName};
pub use memory::{OwnerId, PageMemory, Piece, Registration};
pub use memory_storage::MemoryStorage;
pub use namespace::Namespace;
pub use recent_keys::RecentKeys;
pub use region::{Access, Lease, MemoryKind, Region, SLOT_ALIGNMENT};
pub use storage::{
    ListCursor, ListedPage, Listing, Outcome, PageBatch, PageRequest, Storage, StorageStat, StoreOptions,
};
pub use transfer::{Answer, Completion, Transfer};
