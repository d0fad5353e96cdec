//! The forms in which SGLang's NIXL connector is configured.

use hicache::config::Io;
use hicache::{Config, ConfigBuilder, Environment, Origin};
use serde_json::{Value, json};

fn table(value: &Value) -> ConfigBuilder {
    Config::builder().table(value.as_object().unwrap().clone())
}

fn refused(builder: ConfigBuilder) -> String {
    builder.build().unwrap_err().to_string()
}

/// What users of the connector have, in its three formats.
#[test]
fn the_connectors_tables_are_read() {
    let toml = r#"
use_direct_io = "false"
l3_cleaner_enabled = true
l3_cleaner_high_watermark = 80.0
[plugin.posix]
use_uring = "true"
[plugin.gds]
batch_pool_size = 128
max_request_size = 16777216
[plugin.gds_mt]
thread_count = 4
[plugin.3fs]
mount_point = "/mnt/3fs"
mem_config = "dram"
[plugin.obj]
endpoint_override = ""
crtMinLimit = 5242880
scheme = "http"
region = ""
access_key = ""
secrete_key = ""
use_virtual_addressing = "true"
bucket = "pages"
"#;
    let json = json!({
        "use_direct_io": "false", "l3_cleaner_enabled": true, "l3_cleaner_high_watermark": 80.0,
        "plugin": {
            "POSIX": {"use_uring": true},
            "gds": {"batch_pool_size": "128", "max_request_size": "16MiB"},
            "gds_mt": {"thread_count": 4},
            "HF3FS": {"mount_point": "/mnt/3fs", "mem_config": "dram"},
            "obj": {"crtMinLimit": 5242880, "scheme": "http", "use_virtual_addressing": true, "bucket": "pages"},
            "3fs": null
        }
    });
    let yaml = "
use_direct_io: 'false'
l3_cleaner_enabled: true
l3_cleaner_high_watermark: 80.0
plugin:
  posix: {use_uring: 'true'}
  gds: {batch_pool_size: 128, max_request_size: 16777216}
  gds_mt: {thread_count: 4}
  3fs: {mount_point: /mnt/3fs, mem_config: dram}
  obj: {crtMinLimit: 5242880, scheme: http, use_virtual_addressing: 'true', bucket: pages, region: ''}
";
    let directory = tempfile::tempdir().unwrap();
    let read = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        let config = Config::builder().file(path).build().unwrap();
        let notes = config.warnings().iter().filter(|note| note.contains("l3_cleaner")).count();
        assert_eq!(notes, 2, "{:?}", config.warnings());
        config.settings().clone()
    };
    let settings = read("a.toml", toml);
    assert_eq!(settings.io, Io::Buffered, "\"false\" is false");
    assert_eq!(settings.backend, "auto");
    assert_eq!(settings.nixl_posix.use_uring, Some(true));
    assert_eq!((settings.nixl_gds.batch_pool_size, settings.nixl_gds_mt.thread_count), (128, Some(4)));
    assert_eq!(settings.nixl_3fs.mem_config, "dram");
    assert_eq!(settings.nixl_obj.bucket.as_deref(), Some("pages"));
    assert_eq!(settings.nixl_obj.crt_min_limit, Some(5 << 20));
    assert!(settings.nixl_obj.use_virtual_addressing && settings.nixl_obj.access_key.is_none());
    assert_eq!(read("a.json", &json.to_string()), settings);
    assert_eq!(read("a.yaml", yaml), settings);
}

#[test]
fn what_is_wrong_in_them_is_named_with_the_nearest() {
    let cases = [
        (
            json!({"plugin": {"posixx": {}}}),
            vec!["unknown plugin \"posixx\"", "did you mean `posix`?", "gds_mt"],
        ),
        (
            json!({"plugin": {"posix": {"use_urin": true}}}),
            vec!["plugin.posix.use_urin", "did you mean `use_uring`?"],
        ),
        (
            json!({"plugin": {"obj": {"secrete_key": "x"}}}),
            vec!["plugin.obj.secrete_key", "did you mean `secret_key`?"],
        ),
        (json!({"plugin": {"posix": {"xyzzy": 1}}}), vec!["its parameters are use_aio, use_uring"]),
        (
            json!({"plugin": {"posix": {"ios_pool_size": 1}}}),
            vec!["nixl_posix.ios_pool_size = 1", "from 64 to 65536"],
        ),
        (
            json!({"plugin": {"posix": {"use_uring": "maybe"}}}),
            vec!["nixl_posix.use_uring = \"maybe\"", "true or false"],
        ),
        (json!({"plugin": {"posix": {"active": "maybe"}}}), vec!["plugin.posix.active", "true or false"]),
        (json!({"plugin": 3}), vec!["plugin (explicit) must be a table of plugins"]),
        (json!({"plugin": {"posix": true}}), vec!["plugin.posix (explicit) must be a table of parameters"]),
        (
            json!({"use_direct_io": "maybe"}),
            vec!["use_direct_io = \"maybe\" (explicit) must be true or false"],
        ),
        (
            json!({"use_uring": "true"}),
            vec!["use_uring (explicit)", "plugin POSIX", "backend is auto", "nixl_posix.use_uring"],
        ),
        (json!({"backend": "memory", "bucket": "b"}), vec!["bucket", "plugin OBJ", "nixl_obj.bucket"]),
    ];
    for (given, words) in cases {
        let message = refused(table(&given));
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} are not in: {message}");
    }
}

#[test]
fn no_secret_is_shown() {
    let keys = json!({"access_key": "AKIA-hidden", "secret_key": "hidden-2", "session_token": "hidden-3"});
    let forms = [json!({"nixl_obj": keys.clone()}), json!({"plugin": {"obj": keys}})];
    for form in forms {
        let builder = table(&form);
        let config = builder.clone().build().unwrap();
        let obj = &config.settings().nixl_obj;
        assert_eq!(obj.secret_key.as_ref().unwrap().reveal(), "hidden-2");
        let explained: Vec<String> = config.explain().iter().map(ToString::to_string).collect();
        let shown = [
            format!("{config:?}"),
            format!("{builder:?}"),
            explained.join("\n"),
            serde_json::to_string(&config.explain()).unwrap(),
            serde_json::to_string(config.settings()).unwrap(),
        ];
        for text in shown {
            assert!(!text.contains("hidden"), "{text}");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    for text in
        ["secret_key = hidden/x", "secret_key = \"hidden", "secret_key = \"a\"\nsecret_key = \"hidden\""]
    {
        for name in ["a.toml", "a"] {
            let path = directory.path().join(name);
            std::fs::write(&path, format!("[nixl_obj]\n{text}\n")).unwrap();
            let message = refused(Config::builder().file(path));
            assert!(!message.contains("hidden"), "{message}");
        }
    }
    let variables = Environment::from_iter([("HICACHE_NIXL_OBJ_SECRET_KEY", "hidden")]);
    assert!(!format!("{variables:?}").contains("hidden"));
    let not_utf8: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(b"hidden\xff".to_vec());
    for name in ["HICACHE_NIXL_OBJ_SECRET_KEY", "HICACHE_NIXL_OBJ_SESSION_TOKEN"] {
        let variables = Environment::from_iter([(name, not_utf8.clone())]);
        let message = refused(Config::builder().environment(&variables));
        assert!(message.contains(name) && !message.contains("hidden"), "{message}");
    }
    for bad in [
        json!({"nixl_obj": {"secret_key": ["hidden"]}}),
        json!({"nixl_obj": "hidden"}),
        json!({"plugin": {"obj": "hidden"}}),
        json!({"plugin": ["hidden"]}),
        json!({"nixl_obj": {"endpoint_override": "http://user:hidden@host"}}),
        json!({"secret_key": "hidden"}),
    ] {
        let message = refused(table(&bad));
        assert!(!message.contains("hidden"), "{message}");
    }
}

/// The plugin, and the AWS SDK in it, read these where they are told nothing: whatever we are told goes before.
#[test]
fn variables_of_aws_are_taken_where_nothing_else_is_said() {
    let variables = Environment::from_iter([
        ("AWS_DEFAULT_BUCKET", "pages"),
        ("AWS_ENDPOINT_URL", "http://any:1"),
        ("AWS_ENDPOINT_URL_S3", "http://s3:1"),
    ]);
    let config = Config::builder().environment(&variables).build().unwrap();
    assert_eq!(config.settings().nixl_obj.bucket.as_deref(), Some("pages"));
    assert_eq!(config.origin("nixl_obj.bucket"), Origin::Environment("AWS_DEFAULT_BUCKET".into()));
    assert_eq!(config.settings().nixl_obj.endpoint_override.as_deref(), Some("http://s3:1"));
    let general = Environment::from_iter([("AWS_ENDPOINT_URL", "http://any:1")]);
    let config = Config::builder().environment(&general).build().unwrap();
    assert_eq!(config.settings().nixl_obj.endpoint_override.as_deref(), Some("http://any:1"));

    let given = json!({"nixl_obj": {"bucket": "mine", "endpoint_override": "http://mine:1"}});
    let mine = |builder: ConfigBuilder| {
        let config = builder.environment(&variables).build().unwrap();
        let obj = &config.settings().nixl_obj;
        assert_eq!(obj.bucket.as_deref(), Some("mine"));
        assert_eq!(obj.endpoint_override.as_deref(), Some("http://mine:1"));
    };
    mine(table(&given));
    mine(table(&json!({"plugin": {"obj": given["nixl_obj"]}})));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.json");
    for form in [given.clone(), json!({"plugin": {"obj": given["nixl_obj"]}})] {
        std::fs::write(&path, form.to_string()).unwrap();
        mine(Config::builder().file(&path));
    }
    let ours = Environment::from_iter([("AWS_DEFAULT_BUCKET", "pages"), ("HICACHE_NIXL_OBJ_BUCKET", "mine")]);
    let config = Config::builder().environment(&ours).build().unwrap();
    assert_eq!(config.settings().nixl_obj.bucket.as_deref(), Some("mine"));
}

/// They are not ours, and may be meant for somebody else.
/// The last of what AWS's SDK reads: seen here too, and only where it would be used.
#[test]
fn the_address_in_a_profile_of_aws_is_taken_where_nothing_else_gives_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    let text = "[default]\nendpoint_url = http://all:1\n[profile far]\nservices = s\n[services s]\ns3 =\n  endpoint_url = http://s3:2\n\
                [profile odd]\nendpoint_url = http://me:secret@h\n";
    std::fs::write(&path, text).unwrap();
    let build = |variables: &[(&str, &str)], address: Option<&str>| {
        let file = [("AWS_CONFIG_FILE", path.to_str().unwrap()), ("AWS_DEFAULT_BUCKET", "pages")];
        let environment = Environment::from_iter([&file[..], variables].concat());
        let builder = Config::builder().environment(&environment);
        let builder =
            address.iter().fold(builder, |b, address| b.set("nixl_obj.endpoint_override", *address));
        builder.build().unwrap()
    };
    let address = |config: &Config| config.settings().nixl_obj.endpoint_override.clone().unwrap_or_default();
    let config = build(&[], None);
    assert_eq!(address(&config), "http://all:1");
    assert_eq!(config.origin("nixl_obj.endpoint_override"), Origin::File(path.clone()));
    assert_eq!(address(&build(&[("AWS_PROFILE", "far")], None)), "http://s3:2");
    assert_eq!(address(&build(&[("AWS_ENDPOINT_URL", "http://any:3")], None)), "http://any:3");
    assert_eq!(address(&build(&[], Some("http://own:4"))), "http://own:4");
    assert_eq!(address(&build(&[("AWS_PROFILE", "none")], None)), "");
    // The SDK is told to look at none of them.
    let ignored = ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true");
    assert_eq!(address(&build(&[ignored, ("AWS_ENDPOINT_URL", "http://any:3")], None)), "");
    // What is wrong in it is said, and is no error; without a bucket it is not even read.
    let odd = build(&[("AWS_PROFILE", "odd")], None);
    assert!(address(&odd).is_empty() && odd.warnings()[0].contains("is left out"), "{:?}", odd.warnings());
    assert!(!odd.warnings()[0].contains("secret"), "{:?}", odd.warnings());
    let environment = Environment::from_iter([("AWS_CONFIG_FILE", path.to_str().unwrap())]);
    let config = Config::builder().environment(&environment).build().unwrap();
    assert_eq!(config.settings().nixl_obj.endpoint_override, None);
}

#[test]
fn variables_of_aws_that_are_not_right_are_left_out_and_said() {
    let not_utf8: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(b"hidden\xff".to_vec());
    for value in ["http://user:hidden@h".into(), not_utf8] {
        let variables = Environment::from_iter([("AWS_ENDPOINT_URL", value)]);
        let config = Config::builder().environment(&variables).build().unwrap();
        assert_eq!(config.settings().nixl_obj.endpoint_override, None);
        let warnings = config.warnings().join("\n");
        assert!(warnings.contains("AWS_ENDPOINT_URL is left out"), "{warnings}");
        assert!(!warnings.contains("hidden"), "{warnings}");
    }
}

#[test]
fn objects_of_two_formats_have_prefixes_of_their_own() {
    let with = |more: Value| {
        let mut given = json!({
            "nixl_obj.bucket": "b", "nixl_obj.endpoint_override": "h:1", "nixl_obj.scheme": "http",
            "nixl_obj.prefix": "p", "obj_s3.bucket": "b", "obj_s3.endpoint": "http://h:1/", "obj_s3.prefix": "p"
        });
        let given = given.as_object_mut().unwrap();
        given.extend(more.as_object().unwrap().clone());
        given
            .iter()
            .fold(Config::builder(), |builder, (name, value)| builder.set(name, value.clone()))
            .build()
    };
    let message = with(json!({})).unwrap_err().to_string();
    assert!(message.contains("nixl_obj.prefix = \"p\"") && message.contains("obj_s3.prefix"), "{message}");
    for other in [
        json!({"nixl_obj.prefix": "q"}),
        json!({"obj_s3.bucket": "c"}),
        json!({"obj_s3.endpoint": "http://h:2"}),
    ] {
        with(other).unwrap();
    }
}

#[cfg(feature = "nixl")]
mod with_nixl {
    use super::*;

    #[test]
    fn the_active_plugin_is_the_backend() {
        let backend = |value: Value| table(&value).build().unwrap().settings().backend.clone();
        assert_eq!(backend(json!({"plugin": {"posix": {"active": true}, "gds": {}}})), "nixl:POSIX");
        assert_eq!(backend(json!({"plugin": {"3fs": {"active": "True"}}})), "nixl:3FS");
        assert_eq!(backend(json!({"plugin": {"posix": {"active": "false"}}})), "auto");
        let beside = json!({"backend": "memory", "plugin": {"posix": {"active": true}}});
        assert_eq!(backend(beside), "memory");
        let two = json!({"plugin": {"posix": {"active": true}, "gds": {"active": true}}});
        let message = refused(table(&two));
        assert!(message.contains("plugin.gds and plugin.posix (explicit) are both active"), "{message}");
        let builder = Config::builder().set("plugin.obj.bucket", "b").set("plugin.obj.active", true);
        assert_eq!(builder.clone().build().unwrap().settings().backend, "nixl:OBJ");
        let twice = builder.clone().set("plugin.obj.active", true).build().unwrap();
        assert_eq!(twice.settings().backend, "nixl:OBJ");
        let message = refused(builder.set("plugin.posix.active", true));
        assert!(message.contains("plugin.obj and plugin.posix (explicit) are both active"), "{message}");
    }

    #[test]
    fn the_flat_form_is_of_the_plugin_in_use() {
        let variables = Environment::from_iter([("SGLANG_HICACHE_NIXL_BACKEND_PLUGIN", "posix")]);
        let config = table(&json!({"use_uring": "true"})).environment(&variables).build().unwrap();
        assert_eq!(config.settings().backend, "nixl:POSIX");
        assert_eq!(config.settings().nixl_posix.use_uring, Some(true));
        let config = table(&json!({"backend": "nixl:OBJ", "bucket": "b", "crtMinLimit": 1})).build().unwrap();
        assert_eq!(config.settings().nixl_obj.bucket.as_deref(), Some("b"));
        let message = refused(table(&json!({"bucket": "b"})).environment(&variables));
        assert!(message.contains("plugin OBJ, and backend is nixl:POSIX"), "{message}");
    }

    #[test]
    fn plugins_have_their_names_in_any_case() {
        for (given, backend) in [
            ("nixl:HF3FS", "nixl:3FS"),
            ("nixl:3fs", "nixl:3FS"),
            ("NIXL:posix", "nixl:POSIX"),
            ("nixl:gds_mt", "nixl:GDS_MT"),
        ] {
            let config = Config::builder().set("backend", given).build().unwrap();
            assert_eq!(config.settings().backend, backend);
        }
        let config = Config::builder().set("order", "nixl:gds_mt,nixl:hf3fs").build().unwrap();
        assert_eq!(config.settings().order, ["nixl:GDS_MT", "nixl:3FS"]);
        let message = refused(Config::builder().set("order", "nixl:3FS,nixl:HF3FS"));
        assert!(message.contains("twice"), "{message}");
        let message = refused(Config::builder().set("backend", "nixl:POSIXX"));
        assert!(message.contains("did you mean `nixl:POSIX`?"), "{message}");
    }
}
