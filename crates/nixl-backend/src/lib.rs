//! Moves pages through [NIXL](https://github.com/ai-dynamo/nixl), whose plugins speak to storage.
//!
//! | module | what is there |
//! |---|---|
//! | [`library`] | [`Library`]: libnixl, found and opened at run time |
//! | [`agent`] | [`Agent`], [`BackendHandle`]: the library's plugins, and one of them at work |
//! | [`memory`] | [`MemoryType`]; registrations of memory, files and objects, undone when dropped |
//! | [`request`] | [`Request`]: one transfer, never let go of before it is over |
//! | [`query`] | what is known of an object or a file |
//! | [`engine`] | [`NixlEngine`]: extents through a file plugin |
//! | [`obj`] | [`NixlObjStorage`]: pages as objects of a bucket |
//! | [`plugin`], [`parameters`] | [`Plugin`], [`Parameters`]: the plugins by name, and what they are told |
//! | [`backend`] | [`NixlFileBackend`], [`NixlObjBackend`]: what the facade lists; probes |
//! | `ending` | keeps our threads out of the library when the process ends |
//! | `reaper` | waits for what dropped requests leave in flight |
//! | `binding` | the C ABI, and nearly all `unsafe` of this crate |

pub mod agent;
pub mod backend;
pub mod engine;
pub mod library;
pub mod memory;
pub mod obj;
pub mod parameters;
pub mod plugin;
pub mod query;
pub mod request;

#[cfg(test)]
extern crate self as hicache_nixl_backend;

mod binding;
mod ending;
mod handles;
mod reaper;

#[cfg(test)]
#[path = "../tests/fixture/mod.rs"]
mod fixture;
#[cfg(test)]
mod request_tests;

pub use agent::{Agent, BackendHandle, PluginParameters};
pub use backend::{NixlFileBackend, NixlObjBackend, NixlPlace};
pub use engine::{IoMode, NixlEngine, NixlEngineConfig};
pub use library::{Library, LibrarySearch};
pub use memory::{FileRegistration, MemoryRegistration, MemoryType, ObjectRegistration};
pub use obj::{NixlObjConfig, NixlObjStorage};
pub use parameters::Parameters;
pub use plugin::Plugin;
pub use request::{Progress, Request};

/// Name of the library, for errors that are no plugin's.
pub const NIXL: &str = "nixl";
