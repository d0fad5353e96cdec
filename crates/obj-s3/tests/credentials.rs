//! Credentials that come late, and those that change.

mod fixture;

use std::path::Path;
use std::time::{Duration, Instant};

use fixture::{Ground, KEY, SECRET, Server, config, done};
use hicache_core::Storage;
use hicache_obj_s3::{Access, RequestPath, S3Config};
use hicache_testkit::numbered_key;

fn profile(server: &Server, file: &Path) -> S3Config {
    let mut config = config(&[server]);
    config.access = Access::Profile { name: Some("mine".into()), file: Some(file.to_owned()) };
    config
}

/// A program that takes longer than any store may take for an answer, and is asked once.
#[tokio::test]
async fn a_slow_program_is_waited_for() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display();
    let script = format!(
        "echo run >> {place}/runs; sleep 1.5; echo '{{\"Version\":1,\"AccessKeyId\":\"{KEY}\",\"SecretAccessKey\":\"{SECRET}\"}}'"
    );
    std::fs::write(directory.path().join("program"), script).unwrap();
    let file = directory.path().join("credentials");
    std::fs::write(&file, format!("[mine]\ncredential_process = /bin/sh {place}/program\n")).unwrap();
    let mut config = profile(&server, &file);
    // Not even the time of a whole load is enough.
    config.load_timeout_ms = 1000;
    let ground = Ground::open(config).await;
    ground.store(0..8).await;
    assert_eq!(done(&ground.load(0..8).await), 8);
    assert_eq!(ground.storage.stat().breaker_opened, 0);
    assert_eq!(std::fs::read_to_string(directory.path().join("runs")).unwrap(), "run\n");
}

/// The key of a profile is rotated: every kind of request finds the new one by itself, the first that is refused.
#[tokio::test]
async fn a_rotated_key_is_found() {
    let directory = tempfile::tempdir().unwrap();
    for reads in [RequestPath::Lean, RequestPath::Sdk] {
        for first in ["exists", "load", "store", "delete", "list"] {
            let server = Server::start().await;
            let file = directory.path().join("credentials");
            let write = |key: &str, secret: &str| {
                let text = format!("[mine]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
                std::fs::write(&file, text).unwrap();
            };
            write(KEY, SECRET);
            let mut config = profile(&server, &file);
            config.requests = reads;
            config.present_age_ms = 0;
            let ground = Ground::open(config).await;
            ground.store(0..4).await;
            // No sooner than that others are asked for.
            tokio::time::sleep(Duration::from_millis(1100)).await;
            server.rotate("AKIANEW", "another-secret");
            write("AKIANEW", "another-secret");
            let begun = Instant::now();
            let key = [numbered_key(0)];
            match first {
                "exists" => assert_eq!(ground.storage.exists(&key).await.unwrap(), [true]),
                "load" => assert_eq!(done(&ground.load(0..4).await), 4),
                "store" => ground.store(4..6).await,
                "delete" => assert_eq!(done(&ground.storage.delete(&key).await.unwrap()), 1),
                _ => assert_eq!(ground.storage.list("", None, 10).await.unwrap().pages.len(), 4),
            }
            ground.store(8..10).await;
            assert_eq!(done(&ground.load(1..4).await), 3);
            assert!(begun.elapsed() < Duration::from_secs(3), "{first}, {reads:?}: {:?}", begun.elapsed());
            assert_eq!(ground.storage.stat().breaker_opened, 0, "{first}, {reads:?}");
        }
    }
}
