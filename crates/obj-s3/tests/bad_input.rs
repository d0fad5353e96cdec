//! What is wrong with a configuration, or with the store that it names, is said at open, by name, and without secrets.

mod fixture;

use std::time::{Duration, Instant};

use fixture::{Fault, Ground, KEY, PAGE, SECRET, Server, config, done};
use hicache_core::{Access as Use, ErrorKind, Namespace, PageRequest, Storage};
use hicache_obj_s3::{Access, S3Config, S3Storage};
use hicache_testkit::numbered_key;

async fn refused(config: S3Config) -> (ErrorKind, String) {
    let error = S3Storage::open(config, &Namespace::new("test")).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(!text.contains(SECRET) && !text.contains(KEY), "a secret is shown: {text}");
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn what_the_store_refuses_is_the_configuration() {
    let server = Server::start().await;
    let with = |change: &dyn Fn(&mut S3Config)| {
        let mut config = config(&[&server]);
        change(&mut config);
        refused(config)
    };
    let (kind, text) = with(&|config| config.bucket = "elsewhere".into()).await;
    assert!(
        kind == ErrorKind::Config && text.contains("elsewhere") && text.contains("NoSuchBucket"),
        "{text}"
    );
    let wrong = Access::Key { id: KEY.into(), secret: "wrong".into(), token: None };
    let (kind, text) = with(&|config| config.access = wrong.clone()).await;
    assert!(kind == ErrorKind::Config && text.contains("credentials"), "{text}");
    let (kind, text) = with(&|config| config.access = Access::Anonymous).await;
    assert!(kind == ErrorKind::Config && text.contains("403"), "{text}");
    for (address, mend) in
        [("127.0.0.1:9000", "has no scheme; write http://"), ("https://", "write it as https://host:port")]
    {
        let (kind, text) = with(&|config| config.endpoints = vec![address.into()]).await;
        assert!(kind == ErrorKind::Config && text.contains(mend), "{text}");
    }
    let answers = [
        (403, "<Error><Code>RequestTimeTooSkewed</Code></Error>", "clock"),
        (301, "<Error><Code>PermanentRedirect</Code></Error>", "obj_s3.region"),
        (400, "<Error><Code>AuthorizationHeaderMalformed</Code></Error>", "obj_s3.region"),
        (403, "<Error><Code>AccessDenied</Code></Error>", "ListBucket"),
        (400, "<Error><Code>ExpiredToken</Code></Error>", "be valid now"),
        (404, "<html>no such page</html>", "obj_s3.endpoint"),
        (405, "no", "obj_s3.endpoint"),
        (200, "<html>welcome</html>", "should be a manifest"),
    ];
    for (status, body, mend) in answers {
        server.fail(move |_, _| Some(Fault::Strange(status, body)));
        let (kind, text) = with(&|_| ()).await;
        assert!(kind == ErrorKind::Config && text.contains(mend), "{status} {body}: {text}");
    }
}

/// What was right when it was opened and is so no more: every call says so, as something that may be mended without us,
/// and none of it is a miss. An answer to HEAD has no text, so that a 404 of a bucket that went is one of a page there.
#[tokio::test]
async fn what_goes_wrong_while_it_is_open_is_no_miss() {
    let server = Server::start().await;
    let answers = [
        (403, "<Error><Code>RequestTimeTooSkewed</Code></Error>", "clock"),
        (403, "<Error><Code>AccessDenied</Code></Error>", "ListBucket"),
        (400, "<Error><Code>ExpiredToken</Code></Error>", "be valid now"),
        (301, "<Error><Code>PermanentRedirect</Code></Error>", "obj_s3.region"),
        (404, "<Error><Code>NoSuchBucket</Code></Error>", "make the bucket"),
        (404, "<html>no such page</html>", "obj_s3.endpoint"),
    ];
    for (status, body, mend) in answers {
        for call in ["load", "store", "list", "clear", "exists", "exists_prefix", "delete"] {
            let is_head = ["exists", "exists_prefix", "delete"].contains(&call);
            if status == 404 && is_head {
                continue;
            }
            server.heal();
            let ground = Ground::open(config(&[&server])).await;
            ground.store(0..2).await;
            ground.storage.close().await.unwrap();
            // Nothing is remembered of the pages.
            let ground = Ground::open(config(&[&server])).await;
            server.fail(move |_, _| Some(Fault::Strange(status, body)));
            let (storage, key) = (&ground.storage, [numbered_key(0)]);
            let error = match call {
                "load" => ground.load(0..1).await[0].error().cloned(),
                "store" => ground.try_store(5..6, 1, false).await.outcomes[0].error().cloned(),
                "list" => storage.list("", None, 10).await.err(),
                "clear" => storage.clear().await.err(),
                "exists" => storage.exists(&key).await.err(),
                "exists_prefix" => storage.exists_prefix(&key).await.err(),
                _ => storage.delete(&key).await.err(),
            };
            let error = error.unwrap_or_else(|| panic!("{status} {body}: {call} went well"));
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{call}: {error}");
            let text = format!("{error} {error:?}");
            // An answer to HEAD says less.
            assert!(is_head || text.contains(mend), "{status} {body}: {call}: {text}");
            assert!(!text.contains(SECRET) && !text.contains(KEY), "a secret is shown: {text}");
            server.heal();
            storage.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_does_not_answer_is_unavailable_and_soon() {
    let begun = Instant::now();
    // A port that is taken, so that nobody else gets it, and at which nobody listens.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = format!("http://{}", taken.local_addr().unwrap());
    let server = Server::start().await;
    let mut one = config(&[&server]);
    one.endpoints = vec![nobody];
    let (kind, text) = refused(one).await;
    assert!(kind == ErrorKind::Unavailable, "{text}");
    // Something that speaks, and not HTTP.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut two = config(&[&server]);
    two.endpoints = vec![format!("http://{}", listener.local_addr().unwrap())];
    two.load_timeout_ms = 1000;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = std::io::Write::write_all(&mut stream, b"220 mail ready\r\n");
        }
    });
    let (kind, text) = refused(two).await;
    assert!(kind != ErrorKind::Config || text.contains("obj_s3"), "{kind}: {text}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn files_that_are_not_there_or_not_right_are_named() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let with = |change: &dyn Fn(&mut S3Config)| {
        let mut config = config(&[&server]);
        change(&mut config);
        refused(config)
    };
    for content in
        [None, Some("no certificate"), Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")]
    {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let (kind, text) = with(&|config| config.ca_file = Some(file.clone())).await;
        assert!(kind == ErrorKind::Config && text.contains("obj_s3.ca_file"), "{text}");
    }
    let profile = Access::Profile { name: Some("nobody".into()), file: Some(directory.path().join("none")) };
    let (kind, text) = with(&|config| config.access = profile.clone()).await;
    assert!(kind == ErrorKind::Config && text.contains("obj_s3.profile"), "{text}");
    let (kind, text) = with(&|config| config.proxy = Some("::".into())).await;
    assert!(kind == ErrorKind::Config && text.contains("obj_s3.proxy"), "{text}");
}

#[tokio::test]
async fn a_profile_of_a_file_is_taken() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("credentials");
    std::fs::write(&file, format!("[mine]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"))
        .unwrap();
    let mut config = config(&[&server]);
    config.access = Access::Profile { name: Some("mine".into()), file: Some(file) };
    let storage = S3Storage::open(config, &Namespace::new("test")).await.unwrap();
    storage.close().await.unwrap();
}

#[tokio::test]
async fn a_manifest_of_something_else_is_refused() {
    let server = Server::start().await;
    let namespace = Namespace::new("test");
    let storage = S3Storage::open(config(&[&server]), &namespace).await.unwrap();
    storage.close().await.unwrap();
    let name = format!("hicache/{}/manifest.json", namespace.fingerprint());
    let text = String::from_utf8(server.bucket.lock().objects[&name].bytes.clone()).unwrap();
    assert!(text.contains("\"model\": \"test\""), "{text}");
    for (content, word) in [
        (text.replace("\"model\": \"test\"", "\"model\": \"prod\""), "prod"),
        (text.replace("\"format\": 1", "\"format\": 9"), "format 9"),
        (text.replace("\"format\": 1", "\"objects\": \"nixl 1\", \"format\": 1"), "format \"nixl 1\""),
        ("hello".to_owned(), "not JSON"),
    ] {
        server.bucket.lock().objects.get_mut(&name).unwrap().bytes = content.into_bytes();
        let (kind, text) = refused(config(&[&server])).await;
        assert!(kind == ErrorKind::Config && text.contains(word) && text.contains(&name), "{text}");
    }
}

/// A page that was stored with another length than it is loaded with is there, and not what was asked for; an object that
/// is longer or shorter than the page that it says it is, is no page.
#[tokio::test]
async fn pages_and_objects_of_another_length_are_told_apart() {
    let server = Server::start().await;
    let ground = Ground::open(config(&[&server])).await;
    ground.store(0..3).await;
    let half = ground.registration.page(0, PAGE / 2, Use::Write).unwrap();
    let batch = ground.storage.load(vec![PageRequest::new(numbered_key(0), half)]).await;
    let error = batch.outcomes[0].error().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("another length") && batch.memory[0].is_some(), "{error}");
    drop(batch);
    {
        let mut content = server.bucket.lock();
        let mut pages = content.objects.iter_mut().filter(|(name, _)| name.ends_with(".kv"));
        pages.next().unwrap().1.bytes.truncate(100);
        pages.next().unwrap().1.bytes.push(7);
    }
    let outcomes = ground.load(0..3).await;
    let corrupt = outcomes.iter().filter_map(|outcome| outcome.error());
    let corrupt: Vec<String> =
        corrupt.filter(|error| error.kind() == ErrorKind::Corrupt).map(ToString::to_string).collect();
    assert_eq!((done(&outcomes), corrupt.len()), (1, 2), "{outcomes:?}");
    assert!(corrupt.iter().all(|text| text.contains("was stored with 65536")), "{corrupt:?}");
}
