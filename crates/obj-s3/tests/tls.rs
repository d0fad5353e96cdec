//! Over TLS: who is trusted, and that pages go and come as they do without it.

mod fixture;

use std::time::Duration;

use fixture::{Fault, Ground, Server, config, done};
use hicache_core::{ErrorKind, Namespace, Storage};
use hicache_obj_s3::{ReadPath, S3Storage};
use http::Method;

#[tokio::test]
async fn pages_go_and_come_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let server = Server::start_tls(&file).await;
    let namespace = Namespace::new("test");
    let error = S3Storage::open(config(&[&server]), &namespace).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("ertificate"), "{error}");
    for reads in [ReadPath::Lean, ReadPath::Sdk] {
        let mut config = config(&[&server]);
        config.ca_file = Some(file.clone());
        config.reads = reads;
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
#[tokio::test]
async fn pages_are_not_signed_over_tls() {
    const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    for (server, unsigned) in [(Server::start_tls(&file).await, true), (Server::start().await, false)] {
        let mut config = config(&[&server]);
        config.ca_file = Some(file.clone());
        let ground = Ground::open(config).await;
        ground.store(0..2).await;
        let seen = server.header_of_last_put("x-amz-content-sha256");
        assert_eq!(seen.as_deref() == Some(UNSIGNED), unsigned, "{seen:?}");
    }
}
