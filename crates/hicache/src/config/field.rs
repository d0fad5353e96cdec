//! The table of fields: parsing, names of variables, `explain` and the documentation all come from it.

use super::kind::Kind;
use crate::registry::DEFAULT_ORDER;

/// One field of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its path, with dots between table and field.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its default, as it would be written; empty for a field that is not set.
    pub default: &'static str,
    /// What it does, in a sentence or two.
    pub help: &'static str,
}

impl Field {
    /// The environment variable that sets it: `HICACHE_` and its path in capitals.
    pub fn variable(&self) -> String {
        format!("HICACHE_{}", self.name.to_ascii_uppercase().replace('.', "_"))
    }
}

/// Every field, in the order of the documentation.
pub fn fields() -> &'static [Field] {
    &FIELDS
}

/// The field of this path.
pub(crate) fn find(name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.name == name)
}

/// Whether `path` is a table that has fields. The empty path is the whole.
pub(crate) fn is_table(path: &str) -> bool {
    path.is_empty()
        || FIELDS.iter().any(|field| field.name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

const fn field(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Field {
    Field { name, kind, default, help }
}

const MOST: u64 = u32::MAX as u64;

static FIELDS: [Field; 99] = [
    field(
        "storage_dir",
        Kind::Directories,
        "/tmp/hicache_storage",
        "Where pages are kept: one directory or several, one a disk, over which pages are spread. Made if missing.",
    ),
    field(
        "backend",
        Kind::Backend,
        "auto",
        "How pages are moved. `auto` takes the first of `order` that works here; a name is that one or an error.",
    ),
    field("order", Kind::Backends, DEFAULT_ORDER, "What `auto` tries, the first first."),
    field(
        "capacity_bytes",
        Kind::Limit,
        "auto",
        "Most bytes taken from the disks, all directories together, metadata included; at the limit pages are \
         evicted. `auto` is nine tenths of what is free at the start, and no limit for the memory backend.",
    ),
    field(
        "io",
        Kind::Word(&["direct", "buffered", "auto"]),
        "auto",
        "Whether files bypass the page cache (O_DIRECT). `auto` does so where file system and page shape allow; \
         `direct` does too, and logs where they don't.",
    ),
    field(
        "role",
        Kind::Word(&["writer", "reader"]),
        "writer",
        "`reader` loads what the writers of the namespace under the same directories store, and takes no space: for \
         ranks that hold the same bytes as another.",
    ),
    field(
        "durability",
        Kind::Word(&["none", "group"]),
        "none",
        "What a power failure may take: `none` never syncs, `group` syncs before a store is answered. With \
         `verify` on, neither ever serves a wrong page.",
    ),
    field(
        "segment_bytes",
        Kind::Size(64 << 10),
        "256MiB",
        "Size of a segment file; smaller where capacity is small.",
    ),
    field(
        "staging_bytes",
        Kind::Size(64 << 10),
        "16MiB",
        "Memory for pages that the engine can't take as they are (address, length or number of pieces), for each page \
         size.",
    ),
    field(
        "page_bytes",
        Kind::Size(1),
        "",
        "Bytes of a page, where known beforehand: a capacity below 16 pages is then refused at once.",
    ),
    field("verify", Kind::Flag, "true", "Whether every page that is read is compared with its checksum."),
    field(
        "io_timeout_ms",
        Kind::Count(1, 3_600_000),
        "30000",
        "Milliseconds after which an operation that does not end counts as lost.",
    ),
    field(
        "probe_helper",
        Kind::Words,
        "",
        "The command that probes what may hang, in a process of its own: `hicache`, or `python -m hicache`. Not set for \
         the latter under Python, else for `hicache` on PATH.",
    ),
    field(
        "device",
        Kind::Count(0, 255),
        "",
        "Number of the GPU whose memory the pages are in, as this process counts them. Not set for memory of the host.",
    ),
    field(
        "gds.library",
        Kind::Text,
        "",
        "cuFile's library. Not set for the one that the system's loader finds.",
    ),
    field(
        "gds.device_checksums",
        Kind::Word(&["auto", "never"]),
        "auto",
        "Who sums pages in memory of the GPU. `auto`: a kernel there, where it sums known pages as the CPU does, until it \
         fails; else, and with `never`, the CPU, to which they are copied.",
    ),
    field("posix_uring.depth", Kind::Count(1, 4096), "64", "Operations that a ring keeps in flight."),
    field(
        "posix_uring.rings",
        Kind::Count(1, 64),
        "",
        "Rings, each with a thread of its own. Not set for 1, and for 2 with `io = buffered`, where that thread copies.",
    ),
    field(
        "posix_uring.register_buffers",
        Kind::Flag,
        "true",
        "Whether memory is registered with the kernel once instead of being mapped at each transfer.",
    ),
    field(
        "posix_uring.registered_files",
        Kind::Count(0, 32768),
        "1024",
        "Files that are registered with the kernel; those beyond it work, a little slower.",
    ),
    field(
        "posix_uring.huge_pages",
        Kind::Flag,
        "true",
        "Whether transparent huge pages are asked for when memory is registered.",
    ),
    field("posix_pread.threads", Kind::Count(1, 256), "4", "Threads that read and write."),
    field(
        "posix_pread.huge_pages",
        Kind::Flag,
        "true",
        "Whether transparent huge pages are asked for when memory is registered.",
    ),
    field("obj_s3.bucket", Kind::Text, "", "Bucket of the object store. It must be there."),
    field(
        "obj_s3.prefix",
        Kind::Text,
        "hicache",
        "What the names of all objects begin with: letters, digits and ._- with single slashes inside.",
    ),
    field(
        "obj_s3.endpoint",
        Kind::Addresses(64),
        "",
        "Addresses of the store; load is shared, and one that fails is left alone for a while. Not set for AWS.",
    ),
    field(
        "obj_s3.region",
        Kind::Text,
        "",
        "Region; not set for that of the AWS profile, or us-east-1 with an endpoint.",
    ),
    field(
        "obj_s3.path_style",
        Kind::Flag,
        "true",
        "Whether the bucket is in the path of addresses and not in the host.",
    ),
    field(
        "obj_s3.profile",
        Kind::Text,
        "",
        "Profile of the AWS files that has the credentials. Not set for the usual chain: environment, files, web \
         identity, container, instance. Secrets are never set here.",
    ),
    field(
        "obj_s3.credentials_file",
        Kind::Text,
        "",
        "Credentials file of that profile; not set for the usual one.",
    ),
    field("obj_s3.ca_file", Kind::Text, "", "Certificates in PEM that are trusted besides the system's."),
    field("obj_s3.proxy", Kind::Addresses(1), "", "HTTP proxy to the store."),
    field(
        "obj_s3.unsigned_payload",
        Kind::Word(&["auto", "true", "false"]),
        "auto",
        "Whether signatures leave the bytes of pages out, which saves most of the CPU of a PUT. `auto`: over TLS.",
    ),
    field(
        "obj_s3.store_checksum",
        Kind::Flag,
        "true",
        "Whether pages are sent with S3's own CRC-64/NVMe header, so that the store checks them too.",
    ),
    field(
        "obj_s3.encryption",
        Kind::Word(&["bucket", "store", "kms"]),
        "bucket",
        "Encryption by the store: what the bucket does, with the store's keys, or with a key of its key management.",
    ),
    field("obj_s3.kms_key", Kind::Text, "", "That key; not set for the default one."),
    field(
        "obj_s3.load_timeout_ms",
        Kind::Count(1, 3_600_000),
        "5000",
        "Milliseconds after which a page of a load is given up.",
    ),
    field(
        "obj_s3.store_timeout_ms",
        Kind::Count(1, 3_600_000),
        "30000",
        "Milliseconds after which a page of a store, a deletion or a part of a listing is given up.",
    ),
    field(
        "obj_s3.stall_timeout_ms",
        Kind::Count(1, 3_600_000),
        "1000",
        "Milliseconds without a byte after which a request is made anew.",
    ),
    field("obj_s3.concurrency", Kind::Count(1, 4096), "128", "Most requests at a time to one endpoint."),
    field(
        "obj_s3.known_keys",
        Kind::Count(1, 1 << 30),
        "262144",
        "Keys of which is remembered whether they are there.",
    ),
    field(
        "obj_s3.present_age_ms",
        Kind::Count(0, 86_400_000),
        "60000",
        "Milliseconds for which a page counts as there without being asked for again.",
    ),
    field(
        "obj_s3.absent_age_ms",
        Kind::Count(0, 86_400_000),
        "1000",
        "Milliseconds for which a page counts as missing without being asked for again.",
    ),
    field(
        "obj_s3.requests",
        Kind::Word(&["lean", "sdk"]),
        "lean",
        "Which code sends requests for pages: ours, which takes less CPU, or the AWS SDK.",
    ),
    field("obj_s3.threads", Kind::Count(1, 64), "2", "Threads that send and receive."),
    field(
        "nixl.library",
        Kind::Text,
        "",
        "`libnixl_capi.so`, or the directory that has it. Not set for NIXL_LIB_DIR, the wheel in site-packages, then \
         where the loader looks.",
    ),
    field(
        "nixl.site_packages",
        Kind::Directories,
        "",
        "Where the wheel is looked for. Not set for those of the Python that this runs in, or else of the active one: \
         VIRTUAL_ENV, CONDA_PREFIX, the user's own (PYTHONUSERBASE or ~/.local), each `python3` on PATH.",
    ),
    field(
        "nixl.threads",
        Kind::Count(1, 64),
        "1",
        "I/O threads of a file plugin, each with an agent of its own.",
    ),
    field(
        "nixl.depth",
        Kind::Count(1, 65_535),
        "1024",
        "Operations that each of them keeps in flight, held below the plugin's own pool.",
    ),
    field(
        "nixl.probe",
        Kind::Word(&["child", "inline"]),
        "child",
        "Where a plugin that needs a GPU is probed: in a process that can be killed, since it may hang, or in this one.",
    ),
    field(
        "nixl.probe_timeout_ms",
        Kind::Count(1, 3_600_000),
        "30000",
        "Milliseconds after which a probe of a plugin that needs a GPU is killed; it runs in a process of its own.",
    ),
    field("nixl_posix.use_aio", Kind::Flag, "", "Linux AIO; the default of the three."),
    field("nixl_posix.use_uring", Kind::Flag, "", "io_uring."),
    field(
        "nixl_posix.use_posix_aio",
        Kind::Flag,
        "",
        "Refused when true: after one request that fails, every later one does, and the process ends with SIGSEGV.",
    ),
    field(
        "nixl_posix.ios_pool_size",
        Kind::Count(64, 65_536),
        "65536",
        "Operations that the plugin keeps in flight; the engine stays below it.",
    ),
    field("nixl_posix.kernel_queue_size", Kind::Count(16, 1024), "256", "Entries of the kernel's queue."),
    field("nixl_gds.batch_pool_size", Kind::Count(1, 65_536), "16", "Batches that are kept ready."),
    field("nixl_gds.batch_limit", Kind::Count(1, 65_536), "128", "Most operations of a batch."),
    field("nixl_gds.max_request_size", Kind::Size(4096), "16MiB", "Most bytes of an operation."),
    field(
        "nixl_gds_mt.thread_count",
        Kind::Count(1, 1024),
        "",
        "Threads; not set for half of the processors.",
    ),
    field("nixl_3fs.mount_point", Kind::Text, "/mnt/3fs/", "Where 3FS is mounted."),
    field(
        "nixl_3fs.mem_config",
        Kind::Word(&["auto", "dram", "dram_zc"]),
        "auto",
        "How memory is used: through memory of 3FS, straight (`dram_zc`), or as the plugin finds best.",
    ),
    field("nixl_3fs.iopool_size", Kind::Count(64, 1 << 20), "64", "Size of the plugin's pool of operations."),
    field("nixl_obj.bucket", Kind::Text, "", "Bucket of NIXL's object store. It must be there."),
    field(
        "nixl_obj.prefix",
        Kind::Text,
        "hicache-nixl",
        "What the names of all objects begin with. Never that of `obj_s3`: the objects are of another format.",
    ),
    field("nixl_obj.endpoint_override", Kind::Host, "", "Address of the store. Not set for AWS."),
    field(
        "nixl_obj.scheme",
        Kind::Word(&["http", "https"]),
        "https",
        "How the store is spoken to where the address does not say.",
    ),
    field("nixl_obj.region", Kind::Text, "", "Region; not set for the plugin's own, us-east-1."),
    field(
        "nixl_obj.use_virtual_addressing",
        Kind::Flag,
        "false",
        "Whether the bucket is in the host of addresses and not in the path.",
    ),
    field(
        "nixl_obj.access_key",
        Kind::Secret,
        "",
        "Access key. Not set, with the next two, for the usual AWS chain, which is better: a file may be read by others.",
    ),
    field("nixl_obj.secret_key", Kind::Secret, "", "Secret key. Never shown."),
    field("nixl_obj.session_token", Kind::Secret, "", "Session token. Never shown."),
    field(
        "nixl_obj.req_checksum",
        Kind::Word(&["required", "supported"]),
        "",
        "When S3's own checksums are sent; pages carry ours in any case.",
    ),
    field(
        "nixl_obj.resp_checksum",
        Kind::Word(&["required", "supported"]),
        "",
        "When S3's own checksums are compared.",
    ),
    field("nixl_obj.ca_bundle", Kind::Text, "", "Certificates that are trusted."),
    field(
        "nixl_obj.crtMinLimit",
        Kind::Size(1),
        "",
        "Pages from this length on go through the client of the AWS CRT; not set for none.",
    ),
    field(
        "nixl_obj.throughput_target_gbps",
        Kind::Count(1, 10_000),
        "",
        "Throughput that the CRT client aims at.",
    ),
    field("nixl_obj.num_threads", Kind::Count(1, 1024), "", "Threads of the plugin's client."),
    field(
        "nixl_obj.load_timeout_ms",
        Kind::Count(1, 3_600_000),
        "5000",
        "Milliseconds after which a page of a load is given up.",
    ),
    field(
        "nixl_obj.store_timeout_ms",
        Kind::Count(1, 3_600_000),
        "30000",
        "Milliseconds after which a page of a store is given up.",
    ),
    field("nixl_obj.concurrency", Kind::Count(1, 1024), "32", "Most pages on their way at a time."),
    field(
        "nixl_obj.staging_bytes",
        Kind::Size(64 << 10),
        "128MiB",
        "Memory through which pages go: an object is a page and what is said of it, in one piece.",
    ),
    field(
        "tiered.near",
        Kind::Text,
        "auto",
        "Backend of the near tier: a name, or `auto` for the first of `order` that works here and is on this machine.",
    ),
    field("tiered.far", Kind::Text, "obj-s3", "Backend of the far tier."),
    field(
        "tiered.staging_bytes",
        Kind::Size(4096),
        "128MiB",
        "Memory for copies of pages on their way to a tier; pages beyond it are read again from the near tier.",
    ),
    field("tiered.queue_pages", Kind::Count(1, 1 << 30), "65536", "Most pages that wait for the far tier."),
    field(
        "tiered.batches",
        Kind::Count(1, 256),
        "4",
        "Batches of 32 pages on their way to the far tier at a time.",
    ),
    field(
        "tiered.absent_age_ms",
        Kind::Count(0, 86_400_000),
        "1000",
        "Milliseconds for which a page that the far tier did not have counts as missing there.",
    ),
    field(
        "tiered.drain_timeout_ms",
        Kind::Count(0, 3_600_000),
        "30000",
        "Milliseconds that closing waits for pages on their way to the far tier.",
    ),
    field(
        "namespace.model",
        Kind::Text,
        "",
        "Name of the model. All but the memory backend need it: pages of one namespace are never served in another.",
    ),
    field("namespace.revision", Kind::Text, "", "Revision of the weights."),
    field("namespace.dtype", Kind::Text, "", "Element type of the cache, such as bfloat16."),
    field("namespace.layout", Kind::Text, "", "Layout of a page, such as page_first."),
    field("namespace.page_tokens", Kind::Count(1, MOST), "", "Tokens in a page."),
    field("namespace.layers", Kind::Count(1, MOST), "", "Layers held."),
    field("namespace.heads", Kind::Count(1, MOST), "", "KV heads held."),
    field("namespace.head_dim", Kind::Count(1, MOST), "", "Elements of a head."),
    field(
        "namespace.parallel",
        Kind::Positions,
        "{}",
        "Position in each parallel dimension (tp, pp, cp, dcp).",
    ),
    field(
        "namespace.extra",
        Kind::Texts,
        "{}",
        "Anything else that changes the bytes of a page (a salt, a LoRA set).",
    ),
];
