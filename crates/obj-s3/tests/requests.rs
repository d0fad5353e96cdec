//! What is asked of the store: how many requests, with what in them.

mod fixture;

use std::sync::Arc;
use std::time::Duration;

use fixture::bucket::Bucket;
use fixture::{Fault, Ground, Server, config, done};
use hicache_core::{Backend, MemoryKind, Namespace, Outcome, PageKey, ProbeContext, Storage, Verdict};
use hicache_obj_s3::{Encryption, RequestPath, S3Backend, S3Storage};
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
        // A busy machine can make one round look like two, and never two like one.
        let mut least = u64::MAX;
        for _ in 0..3 {
            least = least.min(prefix_trips(&server, k).await);
            if least <= 5 {
                break;
            }
        }
        assert!(least <= 5, "{least} round trips for {k} pages");
    }
}

/// How many round trips it takes to find that `k` pages of 128 are there.
async fn prefix_trips(server: &Server, k: u64) -> u64 {
    let mut config = config(&[server]);
    config.absent_age_ms = 10_000;
    let reader = Ground::open(config).await;
    let keys: Vec<PageKey> = (0..128).map(numbered_key).collect();
    let late = Duration::from_millis(50);
    server.fail(move |method, _| (*method == Method::HEAD).then_some(Fault::Late(late)));
    let (before, rounds) = (server.bucket.lock().heads, server.rounds());
    assert_eq!(reader.storage.exists_prefix(&keys).await.unwrap(), k as usize);
    let (heads, rounds) = (server.bucket.lock().heads - before, server.rounds() - rounds);
    server.heal();
    assert!(heads <= 2 * k + 8, "{heads} HEADs for {k} pages");
    assert_eq!(reader.storage.head_requests(), heads);
    assert_eq!(reader.storage.exists_prefix(&keys).await.unwrap(), k as usize);
    assert_eq!(reader.storage.head_requests(), heads, "what is known is not asked for");
    reader.storage.close().await.unwrap();
    rounds
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
    let encryptions = [
        (Encryption::Bucket, None),
        (Encryption::Store, Some("AES256")),
        (Encryption::Kms(Some("key-1".into())), Some("aws:kms")),
    ];
    let ways = [RequestPath::Lean, RequestPath::Sdk];
    for ((encryption, seen), way) in
        encryptions.into_iter().flat_map(|one| ways.map(|way| (one.clone(), way)))
    {
        let mut config = config(&[&server]);
        config.requests = way;
        config.encryption = encryption;
        config.prefix = format!("p{}", seen.unwrap_or("plain").replace(':', "-"));
        let ground = Ground::open(config).await;
        ground.store(0..1).await;
        assert_eq!(
            server.header_of_last_put("x-amz-server-side-encryption-aws-kms-key-id").as_deref(),
            (seen == Some("aws:kms")).then_some("key-1")
        );
        assert_eq!(server.header_of_last_put("if-none-match").as_deref(), Some("*"));
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

/// Many pages are on their way when a store refuses the checksum header: all of them are sent again without it, and
/// none over what is there. What a store refuses for another reason changes nothing.
#[tokio::test]
async fn a_refused_header_is_left_out_of_every_page() {
    for (status, answer) in [
        (400, "<Error><Code>InvalidRequest</Code></Error>"),
        (501, "<Error><Code>NotImplemented</Code></Error>"),
    ] {
        let server = Server::start().await;
        let ground = Ground::open(config(&[&server])).await;
        server.fail_first(1, Method::PUT, Fault::Strange(400, "<Error><Code>BadDigest</Code></Error>"));
        ground.store(100..102).await;
        assert!(
            checksums(&server).iter().all(|has| *has),
            "a bit flip on the way says nothing of the header"
        );
        // Somebody else's page of the same key.
        Ground::open(config(&[&server])).await.try_store(5..6, 2, false).await;
        let theirs = page_bytes(&server, 5);
        server.fail(move |method, path| {
            let refuses = *method == Method::PUT && path.ends_with(".kv");
            refuses.then_some(Fault::Refuses("x-amz-checksum-crc64nvme", status, answer))
        });
        ground.store(0..64).await;
        assert!(page_bytes(&server, 5) == theirs, "{status}: it was put over what was there");
        assert_eq!(checksums(&server).iter().filter(|has| **has).count(), 3);
    }
}

fn checksums(server: &Server) -> Vec<bool> {
    let content = server.bucket.lock();
    let pages = content.objects.iter().filter(|(name, _)| name.ends_with(".kv"));
    pages.map(|(_, stored)| stored.checksum.is_some()).collect()
}

fn page_bytes(server: &Server, number: u64) -> Vec<u8> {
    let hash = hicache_core::hashing::to_hex(&numbered_key(number).digest);
    let content = server.bucket.lock();
    content.objects.iter().find(|(name, _)| name.contains(&hash)).unwrap().1.bytes.clone()
}

/// A bucket that takes nothing without the headers of encryption, and a store that does not know If-None-Match: both
/// can be opened.
#[tokio::test]
async fn the_manifest_is_put_as_pages_are() {
    let server = Server::start().await;
    server.fail(|method, _| {
        (*method == Method::PUT).then_some(Fault::Requires("x-amz-server-side-encryption"))
    });
    let mut encrypted = config(&[&server]);
    encrypted.encryption = Encryption::Kms(Some("key-1".into()));
    Ground::open(encrypted).await.store(0..2).await;

    let server = Server::start().await;
    let refuses = Fault::Refuses("if-none-match", 501, "<Error><Code>NotImplemented</Code></Error>");
    server.fail(move |method, _| (*method == Method::PUT).then(|| refuses.clone()));
    let ground = Ground::open(config(&[&server])).await;
    ground.store(0..2).await;
    assert_eq!(done(&ground.load(0..2).await), 2);
}

/// Credentials that may read and list are enough for a reader, and nothing is written on its behalf.
#[tokio::test]
async fn a_reader_needs_no_right_to_write() {
    let server = Server::start().await;
    Ground::open(config(&[&server])).await.store(0..2).await;
    let denied = Fault::Strange(403, "<Error><Code>AccessDenied</Code></Error>");
    server.fail(move |method, _| (![Method::GET, Method::HEAD].contains(method)).then(|| denied.clone()));
    let mut config = config(&[&server]);
    config.read_only = true;
    let backend = S3Backend { config: Some(config.clone()) };
    let context = ProbeContext { directory: ".".into(), memory: MemoryKind::Host };
    let report = backend.probe(&context).await;
    assert_eq!(report.verdict, Verdict::Usable, "{report:?}");
    assert_eq!(done(&Ground::open(config.clone()).await.load(0..2).await), 2);
    assert_eq!(server.injected(), 0, "nothing but reading was tried");
    // A writer is told.
    config.read_only = false;
    let report = S3Backend { config: Some(config) }.probe(&context).await;
    assert_ne!(report.verdict, Verdict::Usable, "{report:?}");
}

/// A long answer, or one that breaks off, is no miss whatever its status.
#[tokio::test]
async fn a_long_404_is_no_miss() {
    let server = Server::start().await;
    let ground = Ground::open(config(&[&server])).await;
    let page: &'static str = Box::leak(format!("<html>{}", "x".repeat(70_000)).into_boxed_str());
    server.fail_gets(Fault::Strange(404, page));
    let outcomes = ground.load(0..1).await;
    assert!(outcomes[0].error().is_some(), "{outcomes:?}");
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
    // They are not there, also for who asks first, and who stores one replaces it.
    let keys: Vec<PageKey> = (0..3).map(numbered_key).collect();
    let asking = Ground::open(config(&[&server])).await;
    let there = asking.storage.exists(&keys).await.unwrap();
    assert_eq!(there.iter().filter(|there| **there).count(), 1, "{there:?}");
    fresh.store(0..3).await;
    assert_eq!(done(&fresh.load(0..3).await), 3);
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

/// A part of a listing that ends with an object that is no page, just where the limit is met: the listing goes on there.
/// And a store that begins at the beginning each time is not listed for ever.
#[tokio::test]
async fn listings_go_on_where_they_ended_and_end() {
    let server = Server::start().await;
    let ground = Ground::open(config(&[&server])).await;
    ground.store(0..1).await;
    {
        let mut content = server.bucket.lock();
        let (name, stored) = content.objects.iter().find(|(name, _)| name.ends_with(".kv")).unwrap();
        let (name, start, stored) =
            (name.clone(), name.rsplit_once('/').unwrap().0.to_owned(), stored.clone());
        content.objects.remove(&name);
        for number in 0..1500 {
            content.objects.insert(format!("{start}/{number:064x}.kv"), stored.clone());
        }
        content.objects.insert(format!("{start}/{:064x}x", 998), bucket_object());
    }
    let first = ground.storage.list("", None, 999).await.unwrap();
    assert_eq!(first.pages.len(), 999);
    let rest = ground.storage.list("", first.next.as_ref(), 10_000).await.unwrap();
    assert_eq!((rest.pages.len(), rest.next.is_none()), (501, true));
    server.bucket.lock().ignores_start_after = true;
    let listing = tokio::time::timeout(Duration::from_secs(10), ground.storage.list("", None, 1_000_000));
    assert!(listing.await.expect("it ends").is_ok());
}

/// The SDK's way of reading sees the same.
#[tokio::test]
async fn the_sdk_reads_the_same() {
    let server = Server::start().await;
    let mut config = config(&[&server]);
    config.requests = RequestPath::Sdk;
    let ground = Ground::open(config).await;
    ground.store(0..4).await;
    let outcomes = ground.load(0..6).await;
    assert_eq!(done(&outcomes), 4);
    assert!(matches!(outcomes[4], Outcome::Absent), "{outcomes:?}");
}
