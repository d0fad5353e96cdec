//! The configuration as a program uses it: typed, complete, checked.

use std::path::PathBuf;

use hicache_core::Namespace;
use serde::{Deserialize, Serialize};

use super::nixl_settings::{Nixl, Nixl3fs, NixlGds, NixlGdsMt, NixlObj, NixlPosix};

/// Every field of the configuration with its value. What each means is in the table of fields
/// ([`fields`](crate::config::fields)), from which the documentation is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Directories that hold the pages, as given; no two are the same place.
    pub storage_dir: Vec<PathBuf>,
    /// Name of a backend, or `auto`.
    pub backend: String,
    /// What `auto` tries, in this order.
    pub order: Vec<String>,
    /// Limit on physical bytes in all directories together; `None` for `auto`.
    pub capacity_bytes: Option<u64>,
    /// Whether files bypass the page cache.
    pub io: Io,
    /// Whether this process stores, or only loads.
    pub role: Role,
    /// What survives a power failure.
    pub durability: Durability,
    /// Size of a segment file.
    pub segment_bytes: u64,
    /// Memory for pages that an engine can't take as they are.
    pub staging_bytes: u64,
    /// Bytes of a page, where known beforehand.
    pub page_bytes: Option<u64>,
    /// Whether every page read is compared with its checksum.
    pub verify: bool,
    /// Milliseconds after which an operation counts as lost.
    pub io_timeout_ms: u64,
    /// The command that probes what may hang.
    pub probe_helper: Option<Vec<String>>,
    /// Number of the GPU whose memory the pages are in; `None` for memory of the host.
    pub device: Option<u32>,
    /// Memory of a GPU.
    pub gds: Gds,
    /// The io_uring engine.
    pub posix_uring: PosixUring,
    /// The pread and pwrite engine.
    pub posix_pread: PosixPread,
    /// The object store.
    pub obj_s3: ObjS3,
    /// Where NIXL is.
    pub nixl: Nixl,
    /// NIXL's plugin `POSIX`.
    pub nixl_posix: NixlPosix,
    /// NIXL's plugin `GDS`.
    pub nixl_gds: NixlGds,
    /// NIXL's plugin `GDS_MT`.
    pub nixl_gds_mt: NixlGdsMt,
    /// NIXL's plugin `3FS`.
    pub nixl_3fs: Nixl3fs,
    /// NIXL's plugin `OBJ`.
    pub nixl_obj: NixlObj,
    /// A near storage before a far one.
    pub tiered: Tiered,
    /// What the pages are of; `None` where nothing was said.
    pub namespace: Option<Namespace>,
}

/// Whether files bypass the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Io {
    /// As `Auto`, and it is logged where it can't be.
    Direct,
    /// Never.
    Buffered,
    /// Where the file system and the shape of the pages allow.
    Auto,
}

/// What a process does with the pages of its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Stores and loads.
    Writer,
    /// Loads what others store.
    Reader,
}

/// What survives a power failure. A crash of the process loses nothing either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Whatever the kernel has written by then.
    None,
    /// Whatever was answered: segments, then journal, are synced once a group of batches.
    Group,
}

/// The io_uring engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PosixUring {
    /// Operations in flight a ring.
    pub depth: u32,
    /// Rings, each with a thread; `None` for what the kind of I/O needs.
    pub rings: Option<u32>,
    /// Whether memory is registered with the kernel.
    pub register_buffers: bool,
    /// Files that are registered with the kernel.
    pub registered_files: u32,
    /// Whether huge pages are asked for when memory is registered.
    pub huge_pages: bool,
}

/// The pread and pwrite engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PosixPread {
    /// Threads.
    pub threads: u32,
    /// Whether huge pages are asked for when memory is registered.
    pub huge_pages: bool,
}

/// The object store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjS3 {
    /// The bucket.
    pub bucket: Option<String>,
    /// What the names of all objects begin with.
    pub prefix: String,
    /// Addresses of the store; `None` for AWS.
    pub endpoint: Option<Vec<String>>,
    /// Region.
    pub region: Option<String>,
    /// Whether the bucket is in the path of addresses.
    pub path_style: bool,
    /// Profile that has the credentials; `None` for the usual chain.
    pub profile: Option<String>,
    /// Credentials file of the profile.
    pub credentials_file: Option<PathBuf>,
    /// Certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// HTTP proxy; at most one.
    pub proxy: Option<Vec<String>>,
    /// `auto`, `true` or `false`.
    pub unsigned_payload: String,
    /// Whether S3's own checksum is sent.
    pub store_checksum: bool,
    /// `bucket`, `store` or `kms`.
    pub encryption: String,
    /// Key for `kms`.
    pub kms_key: Option<String>,
    /// Longest that a page of a load may take.
    pub load_timeout_ms: u64,
    /// Longest that a page of a store may take.
    pub store_timeout_ms: u64,
    /// Longest that the store may say nothing.
    pub stall_timeout_ms: u64,
    /// Most requests at a time to one endpoint.
    pub concurrency: usize,
    /// Keys that are remembered.
    pub known_keys: usize,
    /// How long a page counts as there.
    pub present_age_ms: u64,
    /// How long a page counts as missing.
    pub absent_age_ms: u64,
    /// `lean` or `sdk`.
    pub requests: String,
    /// Threads that send and receive.
    pub threads: usize,
}

/// A near storage before a far one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tiered {
    /// Backend of the near tier, or `auto`.
    pub near: String,
    /// Backend of the far tier.
    pub far: String,
    /// Memory for copies.
    pub staging_bytes: u64,
    /// Most pages that wait for the far tier.
    pub queue_pages: usize,
    /// Batches on their way to the far tier at a time.
    pub batches: usize,
    /// How long a page counts as missing in the far tier.
    pub absent_age_ms: u64,
    /// How long closing waits.
    pub drain_timeout_ms: u64,
}

/// Files and memory of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gds {
    /// cuFile's library, where the system's loader does not find it.
    pub library: Option<PathBuf>,
    /// Who sums pages in memory of the GPU.
    pub device_checksums: DeviceChecksums,
}

/// Who sums pages in memory of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceChecksums {
    /// A kernel on the GPU where it is right; else as `Never`.
    Auto,
    /// The CPU, to which they are copied.
    Never,
}
