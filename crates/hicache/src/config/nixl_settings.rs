//! The fields of NIXL's plugins, typed. Their names are NIXL's own.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::secret::Secret;

/// Where NIXL is, and how it is probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nixl {
    /// `libnixl_capi.so` or its directory; `None` to look for it.
    pub library: Option<PathBuf>,
    /// Where the wheel is looked for; `None` for the active Python's.
    pub site_packages: Option<Vec<PathBuf>>,
    /// I/O threads of a file plugin.
    pub threads: usize,
    /// Operations that each keeps in flight.
    pub depth: usize,
    /// `child` or `inline`.
    pub probe: String,
    /// How long the probe of a plugin that needs a GPU may take.
    pub probe_timeout_ms: u64,
}

/// The plugin `POSIX`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NixlPosix {
    /// Linux AIO.
    pub use_aio: Option<bool>,
    /// io_uring.
    pub use_uring: Option<bool>,
    /// Refused when true.
    pub use_posix_aio: Option<bool>,
    /// Operations in flight.
    pub ios_pool_size: u32,
    /// Entries of the kernel's queue.
    pub kernel_queue_size: u32,
}

/// The plugin `GDS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NixlGds {
    /// Batches that are kept ready.
    pub batch_pool_size: u32,
    /// Most operations of a batch.
    pub batch_limit: u32,
    /// Most bytes of an operation.
    pub max_request_size: u64,
}

/// The plugin `GDS_MT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NixlGdsMt {
    /// Threads; `None` for half of the processors.
    pub thread_count: Option<u32>,
}

/// The plugin `3FS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nixl3fs {
    /// Where 3FS is mounted.
    pub mount_point: PathBuf,
    /// `auto`, `dram` or `dram_zc`.
    pub mem_config: String,
    /// Size of the plugin's pool of operations.
    pub iopool_size: u32,
}

/// The plugin `OBJ`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NixlObj {
    /// The bucket.
    pub bucket: Option<String>,
    /// What the names of all objects begin with.
    pub prefix: String,
    /// Address of the store; `None` for AWS.
    pub endpoint_override: Option<String>,
    /// `http` or `https`.
    pub scheme: String,
    /// Region.
    pub region: Option<String>,
    /// Whether the bucket is in the host.
    pub use_virtual_addressing: bool,
    /// Access key.
    pub access_key: Option<Secret>,
    /// Secret key.
    pub secret_key: Option<Secret>,
    /// Session token.
    pub session_token: Option<Secret>,
    /// `required` or `supported`.
    pub req_checksum: Option<String>,
    /// `required` or `supported`.
    pub resp_checksum: Option<String>,
    /// Certificates that are trusted.
    pub ca_bundle: Option<PathBuf>,
    /// Pages from this length on go through the CRT client.
    #[serde(rename = "crtMinLimit")]
    pub crt_min_limit: Option<u64>,
    /// Throughput that the CRT client aims at.
    pub throughput_target_gbps: Option<u32>,
    /// Threads of the plugin's client.
    pub num_threads: Option<u32>,
    /// Longest that a page of a load may take.
    pub load_timeout_ms: u64,
    /// Longest that a page of a store may take.
    pub store_timeout_ms: u64,
    /// Most pages on their way at a time.
    pub concurrency: usize,
    /// Memory through which pages go.
    pub staging_bytes: u64,
}
