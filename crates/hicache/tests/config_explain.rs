//! What people read: `explain` and the generated documentation.

use hicache::{Config, Environment, config};
use serde_json::json;

#[test]
fn explain() {
    let config = Config::builder()
        .environment(&Environment::from_iter([
            ("HICACHE_NAMESPACE_MODEL", "Qwen/Qwen3-0.6B"),
            ("HICACHE_IO", "direct"),
        ]))
        .set("capacity_bytes", 64_u64 << 30)
        .set("storage_dir", json!(["/tmp/a", "/tmp/b"]))
        .build()
        .unwrap();
    let lines: Vec<String> = config.explain().iter().map(ToString::to_string).collect();
    let expected = "\
storage_dir = /tmp/a,/tmp/b (explicit)
backend = auto (default)
order = nixl:3FS,nixl:POSIX,nixl:GDS_MT,nixl:GDS,nixl:OBJ,posix-uring,posix-pread,obj-s3,gds (default)
capacity_bytes = 64GiB (explicit)
io = direct (environment variable HICACHE_IO)
role = writer (default)
durability = none (default)
segment_bytes = 256MiB (default)
staging_bytes = 16MiB (default)
page_bytes = not set (default)
verify = true (default)
io_timeout_ms = 30000 (default)
probe_helper = not set (default)
device = not set (default)
gds.library = not set (default)
gds.device_checksums = auto (default)
posix_uring.depth = 64 (default)
posix_uring.rings = not set (default)
posix_uring.register_buffers = true (default)
posix_uring.registered_files = 1024 (default)
posix_uring.huge_pages = true (default)
posix_pread.threads = 4 (default)
posix_pread.huge_pages = true (default)
obj_s3.bucket = not set (default)
obj_s3.prefix = hicache (default)
obj_s3.endpoint = not set (default)
obj_s3.region = not set (default)
obj_s3.path_style = true (default)
obj_s3.profile = not set (default)
obj_s3.credentials_file = not set (default)
obj_s3.ca_file = not set (default)
obj_s3.proxy = not set (default)
obj_s3.unsigned_payload = auto (default)
obj_s3.store_checksum = true (default)
obj_s3.encryption = bucket (default)
obj_s3.kms_key = not set (default)
obj_s3.load_timeout_ms = 5000 (default)
obj_s3.store_timeout_ms = 30000 (default)
obj_s3.stall_timeout_ms = 1000 (default)
obj_s3.concurrency = 128 (default)
obj_s3.known_keys = 262144 (default)
obj_s3.present_age_ms = 60000 (default)
obj_s3.absent_age_ms = 1000 (default)
obj_s3.requests = lean (default)
obj_s3.threads = 2 (default)
nixl.library = not set (default)
nixl.site_packages = not set (default)
nixl.threads = 1 (default)
nixl.depth = 1024 (default)
nixl.probe = child (default)
nixl.probe_timeout_ms = 30000 (default)
nixl_posix.use_aio = not set (default)
nixl_posix.use_uring = not set (default)
nixl_posix.use_posix_aio = not set (default)
nixl_posix.ios_pool_size = 65536 (default)
nixl_posix.kernel_queue_size = 256 (default)
nixl_gds.batch_pool_size = 16 (default)
nixl_gds.batch_limit = 128 (default)
nixl_gds.max_request_size = 16MiB (default)
nixl_gds_mt.thread_count = not set (default)
nixl_3fs.mount_point = /mnt/3fs/ (default)
nixl_3fs.mem_config = auto (default)
nixl_3fs.iopool_size = 64 (default)
nixl_obj.bucket = not set (default)
nixl_obj.prefix = hicache-nixl (default)
nixl_obj.endpoint_override = not set (default)
nixl_obj.scheme = https (default)
nixl_obj.region = not set (default)
nixl_obj.use_virtual_addressing = false (default)
nixl_obj.access_key = not set (default)
nixl_obj.secret_key = not set (default)
nixl_obj.session_token = not set (default)
nixl_obj.req_checksum = not set (default)
nixl_obj.resp_checksum = not set (default)
nixl_obj.ca_bundle = not set (default)
nixl_obj.crtMinLimit = not set (default)
nixl_obj.throughput_target_gbps = not set (default)
nixl_obj.num_threads = not set (default)
nixl_obj.load_timeout_ms = 5000 (default)
nixl_obj.store_timeout_ms = 30000 (default)
nixl_obj.concurrency = 32 (default)
nixl_obj.staging_bytes = 128MiB (default)
tiered.near = auto (default)
tiered.far = obj-s3 (default)
tiered.staging_bytes = 128MiB (default)
tiered.queue_pages = 65536 (default)
tiered.batches = 4 (default)
tiered.absent_age_ms = 1000 (default)
tiered.drain_timeout_ms = 30000 (default)
namespace.model = Qwen/Qwen3-0.6B (environment variable HICACHE_NAMESPACE_MODEL)
namespace.revision = not set (default)
namespace.dtype = not set (default)
namespace.layout = not set (default)
namespace.page_tokens = not set (default)
namespace.layers = not set (default)
namespace.heads = not set (default)
namespace.head_dim = not set (default)
namespace.parallel = {} (default)
namespace.extra = {} (default)";
    assert_eq!(lines.join("\n"), expected);
}

#[test]
fn explain_as_json() {
    let config = Config::builder().set("capacity_bytes", "1GiB").build().unwrap();
    let explained = serde_json::to_value(config.explain()).unwrap();
    let capacity = explained.as_array().unwrap().iter().find(|one| one["field"] == "capacity_bytes").unwrap();
    assert_eq!(capacity["value"], 1 << 30);
    assert_eq!(capacity["text"], "1GiB");
    assert_eq!(capacity["origin"], json!({"layer": "explicit"}));
    assert_eq!(capacity["variable"], "HICACHE_CAPACITY_BYTES");
    let origin = config::fields().iter().map(|_| hicache::Origin::Environment("X".into())).next();
    assert_eq!(serde_json::to_value(origin).unwrap(), json!({"layer": "environment", "name": "X"}));
}

#[test]
fn no_limit_is_said_so() {
    let config = Config::builder().build().unwrap();
    let explained = config.explain();
    let capacity = explained.iter().find(|one| one.field == "capacity_bytes").unwrap();
    assert_eq!(capacity.text, "auto");
}

#[test]
fn the_documentation_has_every_field_and_its_table_is_whole() {
    let page = config::docs();
    for field in config::fields() {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", field.name))).unwrap();
        assert!(row.contains(&format!("`{}`", field.variable())), "{row}");
        assert_eq!(row.replace("\\|", "").matches('|').count(), 6, "{row}");
        assert!(!field.help.is_empty() && field.help.ends_with('.'), "{row}");
    }
    for variable in ["STORAGE_DIR", "PLUGIN"] {
        assert!(page.contains(&format!("`SGLANG_HICACHE_NIXL_BACKEND_{variable}`")));
    }
    assert!(page.contains("| `segment_bytes` | a number of bytes"));
    assert!(page.ends_with(".\n") && !page.contains("\n\n\n"));
}

#[test]
fn a_configuration_can_be_written_and_read_again() {
    let first = Config::builder().set("namespace.model", "m").set("io", "buffered").build().unwrap();
    let written = serde_json::to_value(first.settings()).unwrap();
    let second = Config::builder().table(written.as_object().unwrap().clone()).build().unwrap();
    assert_eq!(first.settings(), second.settings());
}
