//! What is asked of the store: how many requests, with what in them.

mod fixture;

use std::sync::Arc;
use std::time::Duration;

use fixture::bucket::Bucket;
use fixture::{Fault, Ground, Server, config, done};
use hicache_core::{Namespace, Outcome, PageKey, Storage};
use hicache_obj_s3::{Encryption, ReadPath, S3Storage};
use hicache_testkit::numbered_key;
use http::Method;

/// Item 4: a prefix of k stored pages of 128 costs at most 2k + 8 HEADs in at most 5 round trips, and none when known.
#[tokio::test]
async fn a_prefix_costs_few_heads() {
    let server = Server::start().await;
    let writer = Ground::open(config(&[&server])).await;
    let mut stored = 0;
    for k in [0, 1, 3, 7, 8, 9, 23, 24, 25, 55, 56, 57, 100, 119, 120, 127, 128] {
        writer.store(stored..k).await;
        stored = k;
        let mut config = config(&[&server]);
        config.absent_age_ms = 10_000;
        let reader = Ground::open(config).await;
        let keys: Vec<PageKey> = (0..128).map(numbered_key).collect();
        let late = Duration::from_millis(40);
        server.fail(move |method, _| (*method == Method::HEAD).then_some(Fault::Late(late)));
        let (before, begun) = (server.bucket.lock().heads, std::time::Instant::now());
        assert_eq!(reader.storage.exists_prefix(&keys).await.unwrap(), k as usize);
        let (heads, trips) =
            (server.bucket.lock().heads - before, begun.elapsed().as_secs_f64() / late.as_secs_f64());
        server.heal();
        assert!(heads <= 2 * k + 8, "{heads} HEADs for {k} pages");
        assert!(trips < 6.0, "{trips:.1} times a round trip for {k} pages");
        assert_eq!(reader.storage.head_requests(), heads);
        assert_eq!(reader.storage.exists_prefix(&keys).await.unwrap(), k as usize);
        assert_eq!(reader.storage.head_requests(), heads, "what is known is not asked for");
        reader.storage.close().await.unwrap();
    }
}

/// A load asks for the page and for nothing else; what is known to be missing is not asked for.
#[tokio::test]
async fn no_head_before_a_get() {
    let server = Server::start().await;
    let ground = Ground::open(config(&[&server])).await;
    ground.store(0..16).await;
    let before = server.requests();
    assert_eq!(done(&ground.load(0..32).await), 16);
    assert_eq!(server.requests() - before, 32);
    assert_eq!(ground.load(16..32).await.len(), 16);
    assert_eq!(server.requests() - before, 32, "misses of a moment ago");
    assert_eq!(ground.storage.head_requests(), 0);
}

/// Equal pages of many at a time are put once; those of two machines too.
#[tokio::test]
async fn a_page_is_put_once() {
    let server = Server::start().await;
    let one = Arc::new(Ground::open(config(&[&server])).await);
    let other = Ground::open(config(&[&server])).await;
    let before = server.bucket.lock().puts;
    server.fail(|method, _| (*method == Method::PUT).then_some(Fault::Late(Duration::from_millis(30))));
    let (first, second) = tokio::join!(one.try_store(0..40, 1, false), async {
        // The registered memory is one, so the second batch is of another storage object.
        other.try_store(0..40, 1, false).await
    });
    assert_eq!((done(&first.outcomes), done(&second.outcomes)), (40, 40));
    assert_eq!(server.bucket.lock().puts - before, 40);
    drop((first, second));
    server.heal();
    let requests = server.requests();
    one.store(0..40).await;
    assert_eq!(server.requests(), requests, "what is known to be there is not sent");
}

#[tokio::test]
async fn a_put_says_what_it_holds() {
    let server = Server::start().await;
    for (encryption, seen) in [
        (Encryption::Bucket, None),
        (Encryption::Store, Some("AES256")),
        (Encryption::Kms(Some("key-1".into())), Some("aws:kms")),
    ] {
        let mut config = config(&[&server]);
        config.encryption = encryption;
        config.prefix = format!("p{}", seen.unwrap_or("plain").replace(':', "-"));
        let ground = Ground::open(config).await;
        ground.store(0..1).await;
        let content = server.bucket.lock();
        let fingerprint = Namespace::new("test").fingerprint().to_string();
        let (name, stored) = content.objects.iter().rfind(|(name, _)| name.ends_with(".kv")).unwrap();
        let hash = hicache_core::hashing::to_hex(&numbered_key(0).digest);
        assert!(name.ends_with(&format!("/{fingerprint}/{hash}.kv")), "{name}");
        assert_eq!(stored.metadata["hicache-bytes"], fixture::PAGE.to_string());
        assert_eq!(stored.metadata["hicache-namespace"], fingerprint);
        let sum = hicache_core::hashing::checksum(&stored.bytes);
        assert_eq!(stored.metadata["hicache-crc64nvme"], format!("{sum:016x}"));
        assert!(stored.checksum.is_some(), "S3's own checksum");
        assert_eq!(stored.encryption.as_deref(), seen);
        drop(content);
        server.bucket.lock().objects.clear();
    }
}

/// A store that knows neither the checksum header nor If-None-Match gets pages all the same.
#[tokio::test]
async fn headers_that_a_store_refuses_are_left_out() {
    let server = Server::start().await;
    let ground = Ground::open(config(&[&server])).await;
    server.fail_first(2, Method::PUT, Fault::Strange(501, "<Error><Code>NotImplemented</Code></Error>"));
    ground.store(0..1).await;
    ground.store(1..4).await;
    assert_eq!(done(&ground.load(0..4).await), 4);
    let content = server.bucket.lock();
    assert!(
        content.objects.iter().filter(|(name, _)| name.ends_with(".kv")).all(|(_, s)| s.checksum.is_none())
    );
}

#[tokio::test]
async fn namespaces_and_strange_objects_stay_apart() {
    let server = Server::start().await;
    let ground = Ground::open(config(&[&server])).await;
    ground.store(0..3).await;
    let other = S3Storage::open(config(&[&server]), &Namespace::new("other")).await.unwrap();
    assert_eq!(other.exists_prefix(&[numbered_key(0)]).await.unwrap(), 0);
    // An object of another namespace, and one of nobody, at our place.
    {
        let mut content = server.bucket.lock();
        let names: Vec<String> =
            content.objects.keys().filter(|name| name.ends_with(".kv")).cloned().collect();
        let one = content.objects.get_mut(&names[0]).unwrap();
        one.metadata.insert("hicache-namespace".into(), "0".repeat(32));
        content.objects.get_mut(&names[1]).unwrap().metadata.clear();
        let start = names[0].rsplit_once('/').unwrap().0.to_owned();
        content.objects.insert(format!("{start}/not-ours.txt"), bucket_object());
    }
    let fresh = Ground::open(config(&[&server])).await;
    let outcomes = fresh.load(0..3).await;
    assert_eq!(done(&outcomes), 1, "{outcomes:?}");
    let text = format!("{outcomes:?}");
    assert!(text.contains("is of another namespace") && text.contains("none of our metadata"), "{text}");
    assert_eq!(fresh.storage.clear().await.unwrap(), 3);
    assert!(server.bucket.lock().objects.keys().any(|name| name.ends_with("not-ours.txt")));
    other.close().await.unwrap();
}

fn bucket_object() -> fixture::bucket::Stored {
    fixture::bucket::Stored { bytes: b"somebody's".to_vec(), ..Default::default() }
}

/// More than one request deletes, and more than one part lists.
#[tokio::test]
async fn thousands_are_listed_and_cleared() {
    let bucket = Bucket::default();
    let server = Server::over(bucket).await;
    let ground = Ground::open(config(&[&server])).await;
    ground.store(0..1).await;
    {
        let mut content = server.bucket.lock();
        let (name, stored) = content.objects.iter().find(|(name, _)| name.ends_with(".kv")).unwrap();
        let (start, stored) = (name.rsplit_once('/').unwrap().0.to_owned(), stored.clone());
        for number in 0..2500 {
            let hash = hicache_core::hashing::to_hex(&numbered_key(number).digest);
            content.objects.insert(format!("{start}/{hash}.kv"), stored.clone());
        }
    }
    let mut listed = 0;
    let mut cursor = None;
    loop {
        let part = ground.storage.list("", cursor.as_ref(), 700).await.unwrap();
        listed += part.pages.len();
        cursor = part.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(listed, 2500);
    assert_eq!(ground.storage.clear().await.unwrap(), 2500);
    assert_eq!(server.bucket.lock().objects.len(), 1, "the manifest stays");
}

/// The SDK's way of reading sees the same.
#[tokio::test]
async fn the_sdk_reads_the_same() {
    let server = Server::start().await;
    let mut config = config(&[&server]);
    config.reads = ReadPath::Sdk;
    let ground = Ground::open(config).await;
    ground.store(0..4).await;
    let outcomes = ground.load(0..6).await;
    assert_eq!(done(&outcomes), 4);
    assert!(matches!(outcomes[4], Outcome::Absent), "{outcomes:?}");
}
