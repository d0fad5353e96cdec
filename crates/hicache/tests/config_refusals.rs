//! Every bad configuration is refused by name, with value, origin and mend.

use std::path::Path;

use hicache::{Config, Environment, ErrorKind};
use serde_json::{Value, json};

/// The message of the refusal.
fn refused(builder: hicache::ConfigBuilder) -> String {
    let error = builder.build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    error.to_string()
}

fn refused_value(field: &str, value: Value) -> String {
    refused(Config::builder().set(field, value))
}

fn refused_variable(name: &str, value: &str) -> String {
    refused(Config::builder().environment(&Environment::from_iter([(name, value)])))
}

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[test]
fn bad_values() {
    let bad: &[(&str, Value, &str)] = &[
        ("storage_dir", json!(3), "must be a directory"),
        ("storage_dir", json!([1]), "must be a directory"),
        ("storage_dir", json!([]), "names no directory"),
        ("storage_dir", json!(" , ,"), "names no directory"),
        ("storage_dir", json!("~/cache"), "only a shell knows what ~ is"),
        ("storage_dir", json!(["/dev/null"]), "not a directory"),
        ("storage_dir", json!(["/dev/null/x"]), "can't be used"),
        ("storage_dir", json!(["a\0b"]), "can't be used"),
        ("backend", json!("posix-urin"), "must be `auto` or a backend of this build ("),
        ("backend", json!("memori"), "did you mean `memory`?"),
        ("backend", json!(true), "must be `auto`"),
        ("backend", json!(""), "must be `auto`"),
        ("order", json!([]), "must be a list of backends"),
        ("order", json!(["memory", "posix-pred"]), "did you mean `posix-pread`?"),
        ("order", json!("memory,memory"), "names \"memory\" twice"),
        ("order", json!(["auto"]), "not \"auto\""),
        ("capacity_bytes", json!(0), "above 0, or `auto`"),
        ("capacity_bytes", json!(-1), "must be a number of bytes"),
        ("capacity_bytes", json!(1.5), "must be a number of bytes"),
        ("capacity_bytes", json!("64G"), "64GiB"),
        ("capacity_bytes", json!("lots"), "must be a number of bytes"),
        ("io", json!("Direkt"), "must be one of direct, buffered, auto"),
        ("io", json!(true), "must be one of direct, buffered, auto"),
        ("role", json!("owner"), "must be one of writer, reader"),
        ("durability", json!("always"), "must be one of none, group"),
        ("segment_bytes", json!(0), "at least 64KiB"),
        ("segment_bytes", json!("auto"), "at least 64KiB"),
        ("staging_bytes", json!(1), "at least 64KiB"),
        ("page_bytes", json!(0), "must be a number of bytes"),
        ("verify", json!("maybe"), "must be true or false"),
        ("verify", json!(2), "must be true or false"),
        ("verify", json!([]), "must be true or false"),
        ("io_timeout_ms", json!(0), "must be a whole number from 1 to 3600000"),
        ("io_timeout_ms", json!("1s"), "must be a whole number from 1 to 3600000"),
        ("probe_helper", json!([]), "must be a command"),
        ("device", json!(-1), "must be a whole number from 0 to 255"),
        ("gds.library", json!(""), "must be text that is not empty"),
        ("gds.device_checksums", json!("always"), "must be one of auto, never"),
        ("posix_uring.depth", json!(0), "must be a whole number from 1 to 4096"),
        ("posix_uring.depth", json!(5000), "must be a whole number from 1 to 4096"),
        ("posix_uring.rings", json!(-1), "must be a whole number from 1 to 64"),
        ("posix_uring.register_buffers", json!("ja"), "must be true or false"),
        ("posix_uring.huge_pages", json!({}), "must be true or false"),
        ("posix_uring.registered_files", json!(32769), "must be a whole number from 0 to 32768"),
        ("posix_pread.huge_pages", json!("2"), "must be true or false"),
        ("posix_pread.threads", json!(0), "must be a whole number from 1 to 256"),
        ("obj_s3.bucket", json!(""), "must be text that is not empty"),
        ("obj_s3.prefix", json!(""), "must be text that is not empty"),
        ("obj_s3.region", json!(""), "must be text that is not empty"),
        ("obj_s3.profile", json!(""), "must be text that is not empty"),
        ("obj_s3.credentials_file", json!(""), "must be text that is not empty"),
        ("obj_s3.ca_file", json!(""), "must be text that is not empty"),
        ("obj_s3.kms_key", json!(""), "must be text that is not empty"),
        ("obj_s3.endpoint", json!("localhost:9000"), "must be an address with its scheme"),
        ("obj_s3.endpoint", json!([]), "must be an address with its scheme"),
        ("obj_s3.proxy", json!(["http://a", "http://b"]), "must be an address with its scheme"),
        ("obj_s3.path_style", json!("x"), "must be true or false"),
        ("obj_s3.store_checksum", json!("x"), "must be true or false"),
        ("obj_s3.unsigned_payload", json!("maybe"), "must be one of auto, true, false"),
        ("obj_s3.encryption", json!("rot13"), "must be one of bucket, store, kms"),
        ("obj_s3.requests", json!("fast"), "must be one of lean, sdk"),
        ("obj_s3.load_timeout_ms", json!(0), "must be a whole number from 1"),
        ("obj_s3.store_timeout_ms", json!(0), "must be a whole number from 1"),
        ("obj_s3.stall_timeout_ms", json!(0), "must be a whole number from 1"),
        ("obj_s3.concurrency", json!(0), "must be a whole number from 1"),
        ("obj_s3.known_keys", json!(0), "must be a whole number from 1"),
        ("obj_s3.threads", json!(0), "must be a whole number from 1"),
        ("obj_s3.present_age_ms", json!(-1), "must be a whole number from 0"),
        ("obj_s3.absent_age_ms", json!(-1), "must be a whole number from 0"),
        ("nixl.library", json!(""), "must be text that is not empty"),
        ("nixl.site_packages", json!(3), "must be a directory"),
        ("nixl.threads", json!(0), "must be a whole number from 1 to 64"),
        ("nixl.depth", json!(65536), "must be a whole number from 1 to 65535"),
        ("nixl.probe", json!("here"), "must be one of child, inline"),
        ("nixl.probe_timeout_ms", json!(0), "must be a whole number from 1"),
        ("nixl_posix.use_aio", json!("maybe"), "must be true or false"),
        ("nixl_posix.use_uring", json!("maybe"), "must be true or false"),
        ("nixl_posix.use_posix_aio", json!("maybe"), "must be true or false"),
        ("nixl_posix.ios_pool_size", json!(63), "must be a whole number from 64 to 65536"),
        ("nixl_posix.kernel_queue_size", json!(1025), "must be a whole number from 16 to 1024"),
        ("nixl_gds.batch_pool_size", json!(0), "must be a whole number from 1"),
        ("nixl_gds.batch_limit", json!(0), "must be a whole number from 1"),
        ("nixl_gds.max_request_size", json!("1"), "at least 4KiB"),
        ("nixl_gds_mt.thread_count", json!(0), "must be a whole number from 1"),
        ("nixl_3fs.mount_point", json!(""), "must be text that is not empty"),
        ("nixl_3fs.mem_config", json!("vram"), "must be one of auto, dram, dram_zc"),
        ("nixl_3fs.iopool_size", json!(63), "must be a whole number from 64 to 1048576"),
        ("nixl_obj.bucket", json!(""), "must be text that is not empty"),
        ("nixl_obj.prefix", json!(""), "must be text that is not empty"),
        ("nixl_obj.endpoint_override", json!(""), "must be an address"),
        ("nixl_obj.scheme", json!("ftp"), "must be one of http, https"),
        ("nixl_obj.region", json!(""), "must be text that is not empty"),
        ("nixl_obj.use_virtual_addressing", json!("x"), "must be true or false"),
        ("nixl_obj.req_checksum", json!("x"), "must be one of required, supported"),
        ("nixl_obj.resp_checksum", json!("x"), "must be one of required, supported"),
        ("nixl_obj.ca_bundle", json!(""), "must be text that is not empty"),
        ("nixl_obj.crtMinLimit", json!("x"), "must be a number of bytes"),
        ("nixl_obj.throughput_target_gbps", json!(0), "must be a whole number from 1"),
        ("nixl_obj.num_threads", json!(0), "must be a whole number from 1"),
        ("nixl_obj.load_timeout_ms", json!(0), "must be a whole number from 1"),
        ("nixl_obj.store_timeout_ms", json!(0), "must be a whole number from 1"),
        ("nixl_obj.concurrency", json!(0), "must be a whole number from 1"),
        ("nixl_obj.staging_bytes", json!(1), "at least 64KiB"),
        ("tiered.near", json!(1), "must be text that is not empty"),
        ("tiered.far", json!(1), "must be text that is not empty"),
        ("tiered.staging_bytes", json!(1), "at least 4KiB"),
        ("tiered.queue_pages", json!(0), "must be a whole number from 1"),
        ("tiered.batches", json!(0), "must be a whole number from 1"),
        ("tiered.absent_age_ms", json!("x"), "must be a whole number from 0"),
        ("tiered.drain_timeout_ms", json!("x"), "must be a whole number from 0"),
        ("namespace.model", json!(" "), "must be text that is not empty"),
        ("namespace.revision", json!(12), "must be text that is not empty"),
        ("namespace.dtype", json!([]), "must be text that is not empty"),
        ("namespace.layout", json!(false), "must be text that is not empty"),
        ("namespace.page_tokens", json!(0), "must be a whole number from 1"),
        ("namespace.layers", json!(4_294_967_296_u64), "must be a whole number from 1 to 4294967295"),
        ("namespace.heads", json!("x"), "must be a whole number"),
        ("namespace.head_dim", json!(1.5), "must be a whole number"),
        ("namespace.parallel", json!({"tp": 2}), "must be a table of name to size and rank"),
        (
            "namespace.parallel",
            json!({"tp": {"size": 2, "rnk": 0}}),
            "must be a table of name to size and rank",
        ),
        ("namespace.extra", json!({"a": 1}), "must be a table of name to text"),
        ("namespace.extra", json!("a=b"), "must be a table of name to text"),
        ("posix_uring", json!(3), "must be a table of depth, rings"),
    ];
    for (field, value, right) in bad {
        let message = refused_value(field, value.clone());
        assert_says(&message, &[&format!("{field} = {value} (explicit)"), right]);
    }
    for field in hicache::config::fields() {
        // What is secret is not shown, which is another test's.
        let secret = field.kind == hicache::config::Kind::Secret;
        assert!(
            secret || bad.iter().any(|(name, ..)| *name == field.name),
            "no bad value is tried for {}",
            field.name
        );
    }
}

#[test]
fn a_bad_variable_is_named() {
    let message = refused_variable("HICACHE_POSIX_URING_DEPTH", "many");
    assert_says(
        &message,
        &["posix_uring.depth = \"many\" (environment variable HICACHE_POSIX_URING_DEPTH) must be"],
    );
    let message = refused_variable("SGLANG_HICACHE_NIXL_USE_DIRECT_IO", "maybe");
    assert_says(
        &message,
        &["\"maybe\" (environment variable SGLANG_HICACHE_NIXL_USE_DIRECT_IO) must be true or false"],
    );
    let message = refused_variable("SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR", " ,,");
    assert_says(&message, &["SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR", "names no directory"]);
    let environment: Environment = {
        use std::os::unix::ffi::OsStringExt;
        [("HICACHE_STORAGE_DIR", std::ffi::OsString::from_vec(vec![b'/', 0xff]))].into_iter().collect()
    };
    assert_says(&refused(Config::builder().environment(&environment)), &["HICACHE_STORAGE_DIR", "UTF-8"]);
}

#[test]
fn a_nixl_plugin_that_this_build_has_no_backend_for_is_refused() {
    let known: &[&str] = if cfg!(feature = "nixl") { &[] } else { &["POSIX", "GDS_MT", "3FS"] };
    for plugin in known.iter().chain(&["NONSENSE"]) {
        let message = refused_variable("SGLANG_HICACHE_NIXL_BACKEND_PLUGIN", plugin);
        assert_says(
            &message,
            &[&format!("backend = \"{plugin}\""), "SGLANG_HICACHE_NIXL_BACKEND_PLUGIN", "no backend"],
        );
    }
}

#[test]
fn unknown_fields_are_named_with_the_nearest() {
    let unknown = [
        ("storage_dirs", "unknown field \"storage_dirs\" (explicit); did you mean `storage_dir`?"),
        ("posix_uring.dept", "did you mean `posix_uring.depth`?"),
        ("posix-uring.depth", "did you mean `posix_uring.depth`?"),
        ("depth", "did you mean `posix_uring.depth`?"),
        ("capacity", "did you mean `capacity_bytes`?"),
        (
            "posix_uring.xyzzy",
            "the fields of posix_uring are depth, rings, register_buffers, registered_files, huge_pages",
        ),
        ("xyzzy", "the fields are storage_dir, backend,"),
        ("namespace.model.name", "namespace.model"),
    ];
    for (field, words) in unknown {
        assert_says(&refused_value(field, json!(1)), &[words]);
    }
    let nested = refused(Config::builder().set("posix_uring", json!({"depths": 1})));
    assert_says(&nested, &["\"posix_uring.depths\"", "`posix_uring.depth`"]);
}

#[test]
fn a_bad_file_is_named_with_the_place() {
    let directory = tempfile::tempdir().unwrap();
    let try_file = |name: &str, text: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        let message = refused(Config::builder().file(&path));
        assert_says(&message, &[path.to_str().unwrap()]);
        message
    };
    assert_says(&try_file("a.toml", b"io = \"auto\"\nverify = \n"), &["TOML", "line 2"]);
    assert_says(&try_file("a.toml", b"io = \"auto\"\nio = \"auto\"\n"), &["TOML", "duplicate"]);
    assert_says(&try_file("a.toml", b"io_timeout_ms = 2020-01-01\n"), &["io_timeout_ms"]);
    assert_says(&try_file("a.json", b"{\"io\": }"), &["JSON", "line 1"]);
    assert_says(
        &try_file("a.json", b"{\"io\": \"auto\", \"io\": \"direct\"}"),
        &["JSON", "`io` is given twice"],
    );
    assert_says(&try_file("a.json", b"[1]"), &["holds no table"]);
    assert_says(&try_file("a.json", b""), &["JSON"]);
    assert_says(&try_file("a.yaml", b"io: [\n"), &["YAML"]);
    assert_says(&try_file("a.yaml", b"io: auto\nio: auto\n"), &["YAML", "`io` is given twice"]);
    assert_says(&try_file("a.yaml", b"just text"), &["holds no table"]);
    assert_says(&try_file("a.yaml", b"? [a]\n: 1\n"), &["YAML"]);
    assert_says(&try_file("a.conf", b"just text"), &["JSON", "TOML", "YAML"]);
    assert_says(&try_file("a.conf", b"\xff\xfe"), &["can't be read"]);
    assert_says(&try_file("a.json", "[".repeat(100_000).as_bytes()), &["JSON"]);
    assert_says(&try_file("a.yaml", "[".repeat(100_000).as_bytes()), &["YAML"]);
    assert_says(&try_file("a.toml", format!("a = {}", "[".repeat(100_000)).as_bytes()), &["TOML"]);
    assert_says(&try_file("a.toml", b"[posix_uring]\ndepth = 0\n"), &["posix_uring.depth = 0 (file /"]);
    assert_says(&try_file("a.toml", &vec![b' '; (1 << 20) + 1]), &["not a configuration"]);
    assert_says(&refused(Config::builder().file("/dev/zero")), &["/dev/zero"]);
    assert_says(
        &refused(Config::builder().file("/nowhere.toml")),
        &["/nowhere.toml (explicit) can't be read"],
    );
    let message = refused_variable("HICACHE_CONFIG", "/nowhere.toml");
    assert_says(&message, &["/nowhere.toml (environment variable HICACHE_CONFIG) can't be read"]);
}

#[test]
fn one_place_under_two_names_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (real, link) = (directory.path().join("real"), directory.path().join("link"));
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let both = |a: &Path, b: &Path| refused(Config::builder().storage_dir([a, b]));
    let twice = [
        (real.clone(), real.clone()),
        (real.clone(), link.clone()),
        (real.join("to/come"), link.join("to/come")),
        (real.join("x/../y"), link.join("./y/")),
    ];
    for (a, b) in twice {
        assert_says(&both(&a, &b), &["storage_dir", "names one place twice"]);
    }
    assert_says(&both(&real, &link.join("inside")), &["inside another"]);
    assert_eq!(std::fs::read_dir(&real).unwrap().count(), 0);
    assert!(Config::builder().storage_dir([real.join("a"), link.join("ab")]).build().is_ok());
}

#[test]
fn values_that_do_not_go_together() {
    let small = Config::builder().set("capacity_bytes", "1MiB").set("page_bytes", "128KiB");
    assert_says(&refused(small), &["capacity_bytes = 1048576 (explicit) must be at least 2097152"]);
    assert!(Config::builder().set("capacity_bytes", "2MiB").set("page_bytes", "128KiB").build().is_ok());
    let key = Config::builder().set("obj_s3.encryption", "store").set("obj_s3.kms_key", "key-1");
    assert_says(&refused(key), &["obj_s3.kms_key", "obj_s3.encryption = kms"]);
    let key = Config::builder().set("obj_s3.encryption", "kms").set("obj_s3.kms_key", "key-1");
    assert!(key.build().is_ok());
    assert_says(&refused_value("namespace.dtype", json!("bf16")), &["namespace.model", "namespace.dtype"]);
    let rank = Config::builder()
        .set("namespace.model", "m")
        .set("namespace.parallel", json!({"tp": {"size": 2, "rank": 2}}));
    assert_says(&refused(rank), &["namespace.parallel.tp", "rank 2 of 2"]);
}

#[test]
fn long_values_are_cut() {
    let message = refused_value("io", json!("x".repeat(10_000)));
    assert!(message.len() < 300, "{message}");
}

proptest::proptest! {
    /// Whatever a file or a variable has, the answer is a configuration or an error.
    #[test]
    fn nothing_panics(text in "[ -~\n\\PC]{0,80}", field in 0..hicache::config::fields().len()) {
        let field = &hicache::config::fields()[field];
        let directory = tempfile::tempdir().unwrap();
        for ending in ["toml", "json", "yaml", "txt"] {
            let path = directory.path().join("c").with_extension(ending);
            std::fs::write(&path, &text).unwrap();
            let _ = Config::builder().file(&path).build();
        }
        let variables = Environment::from_iter([(field.variable(), text.clone())]);
        let _ = Config::builder().environment(&variables).build();
        for value in [json!(text), json!({text.as_str(): 1}), json!([text.as_str()])] {
            let _ = Config::builder().set(field.name, value).build();
        }
        let _ = Config::builder().set(&text, 1).build();
    }
}

/// A configuration is shown, in `explain` and in errors: no password gets into it, and none is shown.
#[test]
fn a_password_in_an_address_is_refused_and_not_shown() {
    for field in ["obj_s3.endpoint", "obj_s3.proxy"] {
        let message = refused_value(field, json!("http://me:hunter2@host"));
        assert!(message.contains("without user or password") && !message.contains("hunter2"), "{message}");
    }
}
