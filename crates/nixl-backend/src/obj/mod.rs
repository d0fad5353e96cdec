//! Pages in a bucket, through NIXL's plugin OBJ.
//!
//! | module | what is there |
//! |---|---|
//! | `config` | [`NixlObjConfig`] |
//! | `storage` | [`NixlObjStorage`], the `Storage` |
//! | `driver` | the storage's thread: calls, pages, deadlines |
//! | `open`, `manifest` | whether the bucket is there and ours |
//! | `names`, `format` | names of objects, and their bytes |
//! | `staging` | memory through which pages go |
//! | `heads` | threads that ask which objects are there |
//! | `deadline` | an answer that comes in time, or an error |
//! | `trial` | a page by which a probe sees that a bucket works |
//! | `breaker` | a store that fails is left alone for a while |
//! | `wire`, `plugin_wire` | who moves the bytes: a seam, and the plugin behind it |
//!
//! # What it promises
//!
//! - A load is `Done` only if head, length and checksum of the object are right, whatever the plugin says: it calls a
//!   read of too short an object a success.
//! - A missing page and a failing store are told apart, by a question after a read that failed. A bucket that is gone
//!   reads as one in which nothing is: the plugin does not tell.
//! - A page ends by its deadline, and its memory is then free: pages go through buffers of the storage's own. Its time
//!   begins when it begins to move; what waits is refused once what is before it fails.
//! - Where a key is, a store leaves it, unless it is to replace it or is known to be bad. The plugin has no way to put
//!   only where nothing is, so of two processes that store one key at a time the later one stays.

mod breaker;
#[cfg(test)]
mod busy_tests;
mod config;
mod deadline;
mod driver;
#[cfg(test)]
mod fixture;
mod format;
mod heads;
mod manifest;
mod names;
mod open;
mod plugin_wire;
mod shared;
mod staging;
mod storage;
#[cfg(test)]
mod storage_tests;
pub(crate) mod trial;
mod wire;

pub use config::NixlObjConfig;
pub use storage::NixlObjStorage;

/// The format of objects, as the manifest names it.
pub const OBJECT_FORMAT: &str = manifest::OBJECTS;

/// Length of what stands before a page in its object.
pub const OBJECT_HEAD_BYTES: u64 = format::HEAD_BYTES as u64;

/// Name of the backend.
pub(crate) const NAME: &str = crate::Plugin::Obj.backend();
