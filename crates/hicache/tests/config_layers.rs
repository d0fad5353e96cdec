//! Layers of the configuration: which value wins, and where it is said to come from.

use std::path::{Path, PathBuf};

use hicache::config::{Durability, Io};
use hicache::core::namespace::ParallelPosition;
use hicache::{Config, Environment, Namespace, Origin};
use serde_json::json;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

fn from_environment(variables: &[(&str, &str)]) -> Config {
    Config::builder().environment(&environment(variables)).build().unwrap()
}

fn variable(name: &str) -> Origin {
    Origin::Environment(name.into())
}

#[test]
fn defaults() {
    let config = Config::builder().build().unwrap();
    let settings = config.settings();
    assert_eq!(settings.storage_dir, [PathBuf::from("/tmp/hicache_storage")]);
    assert_eq!(settings.backend, "auto");
    let nixl = ["nixl:3FS", "nixl:POSIX", "nixl:GDS_MT", "nixl:GDS", "nixl:OBJ"];
    assert_eq!(settings.order[..5], nixl);
    assert_eq!(settings.order[5..], ["posix-uring", "posix-pread", "obj-s3", "gds"]);
    assert_eq!(settings.capacity_bytes, None);
    assert_eq!((settings.io, settings.durability), (Io::Auto, Durability::None));
    assert!(settings.verify);
    assert_eq!(settings.io_timeout_ms, 30_000);
    assert_eq!(settings.namespace, None);
    assert!(config.explain().iter().all(|explained| explained.origin == Origin::Default));
    assert!(config.warnings().is_empty());
}

#[test]
fn each_layer_is_over_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hicache.toml");
    std::fs::write(
        &file,
        "io_timeout_ms = 1\nsegment_bytes = \"1MiB\"\nverify = false\n[posix_uring]\ndepth = 1\n",
    )
    .unwrap();
    let variables = environment(&[
        ("HICACHE_SEGMENT_BYTES", "2MiB"),
        ("HICACHE_VERIFY", "true"),
        ("HICACHE_CONFIG", file.to_str().unwrap()),
    ]);
    let config = Config::builder().set("verify", false).environment(&variables).build().unwrap();
    let settings = config.settings();
    assert_eq!(settings.io_timeout_ms, 1);
    assert_eq!(config.origin("io_timeout_ms"), Origin::File(file.clone()));
    assert_eq!(settings.posix_uring.depth, 1);
    assert_eq!(config.origin("posix_uring.depth"), Origin::File(file));
    assert_eq!(settings.posix_uring.rings, None);
    assert_eq!(config.origin("posix_uring.rings"), Origin::Default);
    assert_eq!(settings.segment_bytes, 2 << 20);
    assert_eq!(config.origin("segment_bytes"), variable("HICACHE_SEGMENT_BYTES"));
    assert!(!settings.verify);
    assert_eq!(config.origin("verify"), Origin::Explicit);
}

#[test]
fn a_file_named_by_the_program_goes_before_the_variable() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.json");
    std::fs::write(&file, r#"{"io": "direct"}"#).unwrap();
    let variables = environment(&[("HICACHE_CONFIG", "/nowhere")]);
    let config = Config::builder().environment(&variables).file(&file).build().unwrap();
    assert_eq!(config.settings().io, Io::Direct);
}

#[test]
fn the_three_formats_say_the_same() {
    let toml = r#"
storage_dir = ["/tmp/a", "", "/tmp/b"]
capacity_bytes = "64GiB"
io = "buffered"
durability = "group"
order = ["posix-pread", "memory"]
[posix_uring]
depth = 64
huge_pages = false
[namespace]
model = "m"
page_tokens = 64
extra = { salt = "x" }
[namespace.parallel]
tp = { size = 2, rank = 1 }
"#;
    let json = r#"{
 "storage_dir": "/tmp/a, ,/tmp/b", "capacity_bytes": 68719476736, "io": "Buffered", "durability": "group",
 "order": "posix-pread,memory", "posix_uring": {"depth": "64", "huge_pages": "false"}, "page_bytes": null,
 "namespace": {"model": "m", "page_tokens": 64, "extra": {"salt": "x"}, "parallel": {"tp": {"size": 2, "rank": 1}}}}"#;
    let yaml = "
storage_dir: [/tmp/a, /tmp/b]
capacity_bytes: 64 GiB
io: buffered
durability: group
order: [posix-pread, memory]
posix_uring: {depth: 64, huge_pages: no}
posix_pread:
namespace:
  model: m
  page_tokens: 64
  extra: {salt: x}
  parallel:
    tp: {size: 2, rank: 1}
";
    let directory = tempfile::tempdir().unwrap();
    let read = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        Config::builder().file(path).build().unwrap().settings().clone()
    };
    let expected = read("a.toml", toml);
    assert_eq!(expected.storage_dir, [Path::new("/tmp/a"), Path::new("/tmp/b")]);
    assert_eq!(expected.capacity_bytes, Some(64 << 30));
    assert!(!expected.posix_uring.huge_pages);
    let namespace = expected.namespace.clone().unwrap();
    assert_eq!(namespace.parallel["tp"], ParallelPosition { size: 2, rank: Some(1) });
    for (name, text) in [
        ("a.json", json),
        ("a.yaml", yaml),
        ("a.yml", yaml),
        ("toml", toml),
        ("a.conf", json),
        ("yaml.cfg", yaml),
        ("b.JSON", json),
    ] {
        assert_eq!(read(name, text), expected, "{name}");
    }
    assert_eq!(&read("empty.yaml", ""), Config::builder().build().unwrap().settings());
    assert_eq!(&read("empty", ""), Config::builder().build().unwrap().settings());
}

#[test]
fn every_field_has_a_variable() {
    let given = [
        ("storage_dir", "/nowhere/x,/nowhere/y", json!(["/nowhere/x", "/nowhere/y"])),
        ("backend", "memory", json!("memory")),
        ("order", " memory , posix-uring ", json!(["memory", "posix-uring"])),
        ("capacity_bytes", "1.5TiB", json!(3_u64 << 39)),
        ("io", "direct", json!("direct")),
        ("role", "reader", json!("reader")),
        ("durability", "group", json!("group")),
        ("segment_bytes", "1048576", json!(1 << 20)),
        ("staging_bytes", "1MiB", json!(1 << 20)),
        ("page_bytes", "4096", json!(4096)),
        ("verify", "off", json!(false)),
        ("io_timeout_ms", "1000", json!(1000)),
        ("probe_helper", "/bin/hicache", json!(["/bin/hicache"])),
        ("device", "1", json!(1)),
        ("gds.library", "/opt/libcufile.so.0", json!("/opt/libcufile.so.0")),
        ("gds.device_checksums", "Never", json!("never")),
        ("posix_uring.depth", "8", json!(8)),
        ("posix_uring.rings", "2", json!(2)),
        ("posix_uring.register_buffers", "No", json!(false)),
        ("posix_uring.registered_files", "0", json!(0)),
        ("posix_uring.huge_pages", "0", json!(false)),
        ("posix_pread.threads", "3", json!(3)),
        ("posix_pread.huge_pages", "yes", json!(true)),
        ("obj_s3.bucket", "pages", json!("pages")),
        ("obj_s3.prefix", "a/b", json!("a/b")),
        ("obj_s3.endpoint", "http://a:1, https://b", json!(["http://a:1", "https://b"])),
        ("obj_s3.region", "eu-1", json!("eu-1")),
        ("obj_s3.path_style", "false", json!(false)),
        ("obj_s3.profile", "p", json!("p")),
        ("obj_s3.credentials_file", "/nowhere/c", json!("/nowhere/c")),
        ("obj_s3.ca_file", "/nowhere/ca", json!("/nowhere/ca")),
        ("obj_s3.proxy", "http://proxy:1", json!(["http://proxy:1"])),
        ("obj_s3.unsigned_payload", "true", json!("true")),
        ("obj_s3.store_checksum", "off", json!(false)),
        ("obj_s3.encryption", "kms", json!("kms")),
        ("obj_s3.kms_key", "k", json!("k")),
        ("obj_s3.load_timeout_ms", "1", json!(1)),
        ("obj_s3.store_timeout_ms", "2", json!(2)),
        ("obj_s3.stall_timeout_ms", "3", json!(3)),
        ("obj_s3.concurrency", "4", json!(4)),
        ("obj_s3.known_keys", "5", json!(5)),
        ("obj_s3.present_age_ms", "6", json!(6)),
        ("obj_s3.absent_age_ms", "0", json!(0)),
        ("obj_s3.requests", "sdk", json!("sdk")),
        ("obj_s3.threads", "7", json!(7)),
        ("nixl.library", "/opt/lib.so", json!("/opt/lib.so")),
        ("nixl.site_packages", "/a,/b", json!(["/a", "/b"])),
        ("nixl.threads", "2", json!(2)),
        ("nixl.depth", "8", json!(8)),
        ("nixl.probe", "inline", json!("inline")),
        ("nixl.probe_timeout_ms", "5", json!(5)),
        ("nixl_posix.use_aio", "true", json!(true)),
        ("nixl_posix.use_uring", "False", json!(false)),
        ("nixl_posix.use_posix_aio", "0", json!(false)),
        ("nixl_posix.ios_pool_size", "64", json!(64)),
        ("nixl_posix.kernel_queue_size", "1024", json!(1024)),
        ("nixl_gds.batch_pool_size", "1", json!(1)),
        ("nixl_gds.batch_limit", "2", json!(2)),
        ("nixl_gds.max_request_size", "1MiB", json!(1048576)),
        ("nixl_gds_mt.thread_count", "4", json!(4)),
        ("nixl_3fs.mount_point", "/mnt/x", json!("/mnt/x")),
        ("nixl_3fs.mem_config", "dram_zc", json!("dram_zc")),
        ("nixl_3fs.iopool_size", "128", json!(128)),
        ("nixl_obj.bucket", "b", json!("b")),
        ("nixl_obj.prefix", "p", json!("p")),
        ("nixl_obj.endpoint_override", "http://a:1", json!("http://a:1")),
        ("nixl_obj.scheme", "http", json!("http")),
        ("nixl_obj.region", "r", json!("r")),
        ("nixl_obj.use_virtual_addressing", "on", json!(true)),
        ("nixl_obj.access_key", "a", json!("(set, not shown)")),
        ("nixl_obj.secret_key", "s", json!("(set, not shown)")),
        ("nixl_obj.session_token", "t", json!("(set, not shown)")),
        ("nixl_obj.req_checksum", "required", json!("required")),
        ("nixl_obj.resp_checksum", "supported", json!("supported")),
        ("nixl_obj.ca_bundle", "/ca", json!("/ca")),
        ("nixl_obj.crtMinLimit", "5MiB", json!(5242880)),
        ("nixl_obj.throughput_target_gbps", "25", json!(25)),
        ("nixl_obj.num_threads", "4", json!(4)),
        ("nixl_obj.load_timeout_ms", "1", json!(1)),
        ("nixl_obj.store_timeout_ms", "2", json!(2)),
        ("nixl_obj.concurrency", "3", json!(3)),
        ("nixl_obj.staging_bytes", "1MiB", json!(1048576)),
        ("tiered.near", "memory", json!("memory")),
        ("tiered.far", "memory", json!("memory")),
        ("tiered.staging_bytes", "1MiB", json!(1 << 20)),
        ("tiered.queue_pages", "8", json!(8)),
        ("tiered.batches", "9", json!(9)),
        ("tiered.absent_age_ms", "10", json!(10)),
        ("tiered.drain_timeout_ms", "11", json!(11)),
        ("namespace.model", "m", json!("m")),
        ("namespace.revision", "12", json!("12")),
        ("namespace.dtype", "bfloat16", json!("bfloat16")),
        ("namespace.layout", "page_first", json!("page_first")),
        ("namespace.page_tokens", "64", json!(64)),
        ("namespace.layers", "28", json!(28)),
        ("namespace.heads", "8", json!(8)),
        ("namespace.head_dim", "128", json!(128)),
        ("namespace.parallel", r#"{"tp": {"size": 2}}"#, json!({"tp": {"size": 2}})),
        ("namespace.extra", r#"{"salt": "x"}"#, json!({"salt": "x"})),
    ];
    let fields = hicache::config::fields();
    assert!(given.iter().map(|(name, ..)| *name).eq(fields.iter().map(|field| field.name)));
    let variables: Environment =
        fields.iter().zip(&given).map(|(field, given)| (field.variable(), given.1)).collect();
    assert_eq!(variables.get("HICACHE_POSIX_URING_REGISTER_BUFFERS").unwrap(), "No");
    let config = Config::builder().environment(&variables).build().unwrap();
    for (explained, (name, _, value)) in config.explain().iter().zip(given) {
        assert_eq!((explained.field, &explained.value), (name, &value));
        assert_eq!(explained.origin, variable(&explained.variable));
    }
    // What is explained is what a program gets: the table of fields and the settings have the same leaves.
    let settings = serde_json::to_value(config.settings()).unwrap();
    for explained in config.explain() {
        let pointer = format!("/{}", explained.field.replace('.', "/"));
        assert_eq!(settings.pointer(&pointer), Some(&explained.value), "{}", explained.field);
    }
    let leaves = |table: &serde_json::Value| table.as_object().unwrap().len();
    let nixl = ["nixl", "nixl_posix", "nixl_gds", "nixl_gds_mt", "nixl_3fs", "nixl_obj"];
    let tables =
        [&["gds", "posix_uring", "posix_pread", "obj_s3", "tiered", "namespace"][..], &nixl].concat();
    let inner: usize = tables.iter().map(|table| leaves(&settings[table])).sum();
    assert_eq!(leaves(&settings) - tables.len() + inner, fields.len());
}

#[test]
fn variables_of_the_nixl_connector() {
    const DIRECTORY: &str = "SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR";
    const DIRECT: &str = "SGLANG_HICACHE_NIXL_USE_DIRECT_IO";
    let config = from_environment(&[
        (DIRECTORY, "/tmp/a,, /tmp/b"),
        (DIRECT, "false"),
        ("SGLANG_HICACHE_NIXL_BACKEND_PLUGIN", "auto"),
    ]);
    assert_eq!(config.settings().storage_dir, [Path::new("/tmp/a"), Path::new("/tmp/b")]);
    assert_eq!(config.origin("storage_dir"), variable(DIRECTORY));
    assert_eq!(config.settings().backend, "auto");
    assert_eq!(config.origin("backend"), variable("SGLANG_HICACHE_NIXL_BACKEND_PLUGIN"));
    for (text, io) in [
        ("false", Io::Buffered),
        ("False", Io::Buffered),
        ("0", Io::Buffered),
        ("no", Io::Buffered),
        ("off", Io::Buffered),
        ("true", Io::Direct),
        ("1", Io::Direct),
        ("yes", Io::Direct),
        ("ON", Io::Direct),
        ("", Io::Auto),
    ] {
        assert_eq!(from_environment(&[(DIRECT, text)]).settings().io, io, "{text:?}");
    }
    // Ours go over theirs.
    let config = from_environment(&[(DIRECTORY, "/tmp/a"), ("HICACHE_STORAGE_DIR", "/tmp/b")]);
    assert_eq!(config.settings().storage_dir, [Path::new("/tmp/b")]);
}

#[test]
fn blank_variables_and_nulls_are_not_set() {
    let config = Config::builder()
        .environment(&environment(&[("HICACHE_IO", " "), ("HICACHE_CONFIG", "")]))
        .set("capacity_bytes", None::<u64>)
        .set("posix_uring", serde_json::Value::Null)
        .build()
        .unwrap();
    assert!(config.explain().iter().all(|explained| explained.origin == Origin::Default));
}

#[test]
fn a_limit_can_be_taken_back() {
    let variables = environment(&[("HICACHE_CAPACITY_BYTES", "1GiB")]);
    let config = Config::builder().environment(&variables).set("capacity_bytes", "auto").build().unwrap();
    assert_eq!(config.settings().capacity_bytes, None);
    assert_eq!(config.origin("capacity_bytes"), Origin::Explicit);
}

#[test]
fn a_namespace_of_the_program_leaves_the_rest_to_the_file() {
    let mut namespace = Namespace::new("m");
    namespace.dtype = Some("bfloat16".into());
    let table = json!({"namespace": {"model": "other", "revision": "abc"}});
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("c.json");
    std::fs::write(&file, table.to_string()).unwrap();
    let config = Config::builder().file(file).namespace(&namespace).build().unwrap();
    namespace.revision = Some("abc".into());
    assert_eq!(config.settings().namespace, Some(namespace));
}

#[test]
fn a_slip_in_a_variable_is_pointed_out_and_other_programs_variables_are_not() {
    let config = from_environment(&[
        ("HICACHE_CAPCITY_BYTES", "1"),
        ("HICACHE_PORT", "tcp://10.0.0.1:80"),
        ("HICACHE_SERVICE_HOST", "10.0.0.1"),
    ]);
    assert_eq!(
        config.warnings(),
        [
            "environment variable HICACHE_CAPCITY_BYTES means nothing here; did you mean HICACHE_CAPACITY_BYTES?"
        ]
    );
}

#[test]
fn the_environment_of_the_process_can_be_read() {
    // Only that it is read; what is in it is not ours to say.
    let environment = hicache::process_environment();
    let ours = ["HICACHE_", "SGLANG_HICACHE_NIXL_"];
    let places =
        ["NIXL_LIB_DIR", "NIXL_PLUGIN_DIR", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONUSERBASE", "HOME", "PATH"];
    let aws = [
        "AWS_DEFAULT_BUCKET",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
        "AWS_CONFIG_FILE",
        "AWS_PROFILE",
    ];
    assert!(environment.names().all(|name| {
        ours.iter().any(|start| name.starts_with(start)) || places.contains(&name) || aws.contains(&name)
    }));
}
