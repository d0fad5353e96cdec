//! Over TLS: who is trusted, and that pages go and come as they do without it.

mod fixture;

use std::time::{Duration, Instant};

use fixture::{Fault, Ground, Server, config, done};
use hicache_core::hashing::to_hex;
use hicache_core::{Access, ErrorKind, Namespace, PageMemory, PageRequest, Region, Storage, StoreOptions};
use hicache_obj_s3::{RequestPath, S3Storage};
use hicache_testkit::numbered_key;
use http::Method;
use sha2::{Digest, Sha256};

#[tokio::test]
async fn pages_go_and_come_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let server = Server::start_tls(&file).await;
    let namespace = Namespace::new("test");
    let error = S3Storage::open(config(&[&server]), &namespace).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("ertificate"), "{error}");
    for reads in [RequestPath::Lean, RequestPath::Sdk] {
        let mut config = config(&[&server]);
        config.ca_file = Some(file.clone());
        config.requests = reads;
        let ground = Ground::open(config).await;
        ground.store(0..32).await;
        assert_eq!(done(&ground.load(0..40).await), 32);
        server.fail_first(4, Method::GET, Fault::Corrupt(1000));
        assert_eq!(done(&ground.load(0..32).await), 32);
        server.fail_first(4, Method::GET, Fault::Stall(Duration::from_secs(60)));
        assert_eq!(done(&ground.load(0..32).await), 32);
        assert_eq!(ground.storage.clear().await.unwrap(), 32);
        ground.storage.close().await.unwrap();
    }
}

/// A signature does not cover the bytes of pages then: TLS guards them, and the sum would cost more than all the rest.
/// Without TLS it does, also of a page in several pieces.
#[tokio::test]
async fn pages_are_not_signed_over_tls() {
    const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let (tls, plain) = (Server::start_tls(&file).await, Server::start().await);
    let ways = [RequestPath::Lean, RequestPath::Sdk];
    for ((server, unsigned), way) in
        [(&tls, true), (&plain, false)].into_iter().flat_map(|of| ways.map(|way| (of, way)))
    {
        let mut config = config(&[server]);
        config.ca_file = Some(file.clone());
        (config.requests, config.prefix) = (way, format!("{way:?}"));
        let ground = Ground::open(config).await;
        let piece = |slot, bytes| ground.registration.piece(slot, 0, bytes, Access::Write).unwrap();
        let pages = [
            ground.registration.page(0, 5000, Access::Write).unwrap(),
            PageMemory::from_pieces([piece(1, 4000), piece(2, 1), piece(3, 999)]).unwrap(),
        ];
        let written: Vec<u8> = (0..5000_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
        for (number, mut memory) in (0..).zip(pages) {
            memory.copy_from(&written).unwrap();
            let page = PageRequest::new(numbered_key(number), memory);
            let stored = ground.storage.store(vec![page], StoreOptions::default()).await;
            assert_eq!(done(&stored.outcomes), 1, "{:?}", stored.outcomes);
            let wanted = if unsigned { UNSIGNED.to_owned() } else { to_hex(&Sha256::digest(&written)) };
            assert_eq!(
                server.header_of_last_put("x-amz-content-sha256"),
                Some(wanted),
                "page {number}, {way:?}"
            );
        }
    }
}

/// A peer that reads no more in the middle of a page: the connection ends with the try, whatever TLS would still like to
/// say, and the memory comes back.
#[tokio::test]
async fn memory_comes_back_from_a_peer_that_stands_still() {
    const LONG: usize = 24 << 20;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let server = Server::start_tls(&file).await;
    let mut config = config(&[&server]);
    config.ca_file = Some(file);
    config.store_timeout_ms = 1200;
    let storage = S3Storage::open(config, &Namespace::new("test")).await.unwrap();
    let registered = storage.register(&Region::allocate(1, LONG).unwrap()).unwrap();
    server.fail(|method, path| (*method == Method::PUT && path.ends_with(".kv")).then_some(Fault::Sips(1)));
    let begun = Instant::now();
    let page = PageRequest::new(numbered_key(1), registered.page(0, LONG, Access::Write).unwrap());
    let batch = storage.store(vec![page], StoreOptions::default()).await;
    assert!(batch.outcomes[0].error().is_some(), "{:?}", batch.outcomes);
    assert!(batch.memory[0].is_some(), "the connection kept it");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(storage.stat().abandoned_pages, 0);
}
