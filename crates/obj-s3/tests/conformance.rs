//! The object store goes through the suite, with both ways of reading, healthy and with faults that pass.

mod fixture;

use fixture::{Fault, Server, config};
use hicache_core::Namespace;
use hicache_obj_s3::{RequestPath, S3Storage};
use hicache_testkit::conformance::{StorageTraits, StorageUnderTest, storage_suite};

/// All cases but the one that counts pages: nobody knows how many there are without listing the bucket.
const WITHOUT_COUNTS: usize = 32;

async fn run(subject: &str, requests: RequestPath, fail: impl Fn(&Server)) {
    let make = async || {
        let server = Server::start().await;
        fail(&server);
        let mut config = config(&[&server]);
        config.requests = requests;
        // The suite expects answers, and with 10,000 pages at a time the last one waits for the others.
        config.load_timeout_ms = 60_000;
        config.store_timeout_ms = 60_000;
        config.stall_timeout_ms = 5_000;
        let storage = S3Storage::open(config, &Namespace::new("conformance")).await.unwrap();
        StorageUnderTest::new(storage).keeping(server)
    };
    let traits = StorageTraits { counts: false, ..StorageTraits::default() };
    storage_suite(subject, &traits, make).await.assert_complete(WITHOUT_COUNTS);
}

#[tokio::test]
async fn lean() {
    run("obj-s3, lean", RequestPath::Lean, |_| ()).await;
}

#[tokio::test]
async fn by_the_sdk() {
    run("obj-s3, by the SDK", RequestPath::Sdk, |_| ()).await;
}

/// Every seventh request fails, each in its way, and is made again; then it does not fail.
#[tokio::test]
async fn with_faults_that_pass() {
    let fail = |server: &Server| {
        let mut number = 0;
        let mut spoilt = std::collections::HashSet::new();
        server.fail(move |method, path| {
            number += 1;
            let faults = [
                Fault::Internal,
                Fault::Short(10),
                Fault::Corrupt(3),
                Fault::Reset,
                Fault::Late(std::time::Duration::from_millis(20)),
            ];
            let fault = faults[(number / 7) % faults.len()].clone();
            let body = matches!(fault, Fault::Short(_) | Fault::Corrupt(_));
            let hits = number % 7 == 0 && !path.ends_with(".json") && spoilt.insert(path.to_owned());
            // What spoils bodies spoils those of pages.
            (hits && (!body || (method == http::Method::GET && path.contains('.')))).then_some(fault)
        });
    };
    run("obj-s3 with faults", RequestPath::Lean, fail).await;
}
